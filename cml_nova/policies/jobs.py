"""Rules of /v1/jobs."""

from cml_nova.policies import base

RULES = [
    base.operation("jobs:create", base.PROJECT_MEMBER, "Create a job.", ("POST", "/v1/jobs")),
    base.operation("jobs:plan", base.PROJECT_READER, "See what a job would do, without creating it.", ("POST", "/v1/jobs/plan")),
    base.operation("jobs:list", base.PROJECT_READER, "List the project's jobs.", ("GET", "/v1/jobs")),
    base.operation("jobs:list:all_projects", base.ADMIN, "List and show the jobs of all projects.",
                   ("GET", "/v1/jobs?all_projects=true"), ("GET", "/v1/jobs/{job_id}")),
    base.operation("jobs:get", base.PROJECT_READER, "Show a job.",
                   ("GET", "/v1/jobs/{job_id}"), ("GET", "/v1/jobs/{job_id}/document")),
    base.operation("jobs:update", base.PROJECT_MEMBER, "Change a job's name, description, priority or metadata.",
                   ("PATCH", "/v1/jobs/{job_id}")),
    base.operation("jobs:cancel", base.PROJECT_MEMBER, "Cancel a job.", ("POST", "/v1/jobs/{job_id}/cancel")),
    base.operation("jobs:restart", base.PROJECT_MEMBER, "Make a new job from one that has ended.", ("POST", "/v1/jobs/{job_id}/restart")),
    base.operation("jobs:delete", base.PROJECT_MEMBER, "Delete a job and all that is kept of it.", ("DELETE", "/v1/jobs/{job_id}")),
    base.operation("jobs:open_tunnel", base.PROJECT_MEMBER, "Get through to a node of a running job: log in, or use a port of it.",
                   ("POST", "/v1/jobs/{job_id}/tunnels")),
    base.operation("jobs:get_log", base.PROJECT_READER, "Read a job's log.", ("GET", "/v1/jobs/{job_id}/log")),
    base.operation("jobs:get_events", base.PROJECT_READER, "Read a job's events.", ("GET", "/v1/jobs/{job_id}/events")),
    base.operation("jobs:get_metrics", base.PROJECT_READER, "Read a job's metrics.", ("GET", "/v1/jobs/{job_id}/metrics")),
    base.operation("jobs:get_nodes", base.PROJECT_READER, "See a job's nodes and tasks.", ("GET", "/v1/jobs/{job_id}/nodes")),
    base.operation("jobs:get_artifacts", base.PROJECT_READER, "List and download a job's outputs, and see what checkpoint is saved.",
                   ("GET", "/v1/jobs/{job_id}/checkpoint"), ("GET", "/v1/jobs/{job_id}/artifacts"),
                   ("GET", "/v1/jobs/{job_id}/artifacts/{path}")),
]
