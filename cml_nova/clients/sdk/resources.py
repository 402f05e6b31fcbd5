"""What the API has, as Resources of openstacksdk. What each attribute means is in doc/user.md."""

from __future__ import annotations

from openstack import resource


class _Resource(resource.Resource):
    # The server knows its keys: one that this library doesn't know is sent, so that a wrong one is answered with the right one's
    # name and not dropped without a word, and shown, so that a newer server's are not hidden.
    _allow_unknown_attrs_in_body = True


class Job(_Resource):
    """A training job; what create takes and what the server shows have the same names."""

    resource_key = "job"
    resources_key = "jobs"
    base_path = "/jobs"
    allow_create = allow_fetch = allow_commit = allow_delete = allow_list = True
    commit_method = "PATCH"
    _query_mapping = resource.QueryParameters(
        "name", "status", "framework", "metadata", "user_id", "project_id", "changes_since", "all_projects", "sort_key", "sort_dir")

    # what the user says
    name = resource.Body("name")
    description = resource.Body("description")
    metadata = resource.Body("metadata")
    client_token = resource.Body("client_token")
    framework = resource.Body("framework")
    image = resource.Body("image")
    flavor = resource.Body("flavor")
    workers = resource.Body("workers")
    roles = resource.Body("roles")
    source = resource.Body("source")
    command = resource.Body("command")
    env = resource.Body("env")
    secrets = resource.Body("secrets")
    setup = resource.Body("setup")
    max_run_time = resource.Body("max_run_time")
    max_wait_time = resource.Body("max_wait_time")
    max_restarts = resource.Body("max_restarts")
    checkpoint_interval = resource.Body("checkpoint_interval")
    recover_on_exit_codes = resource.Body("recover_on_exit_codes")
    hang_timeout = resource.Body("hang_timeout")
    priority = resource.Body("priority")
    availability_zone = resource.Body("availability_zone")
    network = resource.Body("network")
    ssh_authorized_keys = resource.Body("ssh_authorized_keys")
    # what becomes of it
    project_id = resource.Body("project_id")
    user_id = resource.Body("user_id")
    status = resource.Body("status")
    status_reason = resource.Body("status_reason")
    cause = resource.Body("cause")
    phase = resource.Body("phase")
    outcome = resource.Body("outcome")
    target = resource.Body("target")
    progress = resource.Body("progress", type=int)
    queue_position = resource.Body("queue_position")
    restart_of = resource.Body("restart_of")
    #: {"amount", "currency", "per_hour"}, or None where there are no prices
    cost = resource.Body("cost")
    attempt = resource.Body("attempt")
    error_restarts = resource.Body("error_restarts")
    infra_restarts = resource.Body("infra_restarts")
    exit_code = resource.Body("exit_code")
    failed_task = resource.Body("failed_task")
    created_at = resource.Body("created_at")
    updated_at = resource.Body("updated_at")
    started_at = resource.Body("started_at")
    finished_at = resource.Body("finished_at")
    deadline = resource.Body("deadline")
    links = resource.Body("links")


class Plan(_Resource):
    """What creating a job would do."""

    framework = resource.Body("framework")
    image = resource.Body("image")
    roles = resource.Body("roles")
    network = resource.Body("network")
    feasible = resource.Body("feasible", type=bool)
    reasons = resource.Body("reasons")
    starts = resource.Body("starts")
    queue_position = resource.Body("queue_position")
    #: list of {"rank", "role", "index", "flavor", "tasks"}
    nodes = resource.Body("nodes")
    accelerators = resource.Body("accelerators")
    totals = resource.Body("totals")
    limits = resource.Body("limits")
    cost_per_hour = resource.Body("cost_per_hour")
    max_cost = resource.Body("max_cost")
    currency = resource.Body("currency")
    #: list of {"flavor", "available", "reason", "cost_per_hour"}
    offers = resource.Body("offers")


class _OfJob(_Resource):
    """Something that a job has."""

    allow_list = True
    job_id = resource.URI("job_id")


class Node(_OfJob):
    """A machine of a job, with the tasks of the newest attempt."""

    resources_key = "nodes"
    base_path = "/jobs/%(job_id)s/nodes"

    rank = resource.Body("rank")
    role = resource.Body("role")
    index = resource.Body("index")
    status = resource.Body("status")
    address = resource.Body("address")
    server_id = resource.Body("server_id")
    fault = resource.Body("fault")
    unreachable_since = resource.Body("unreachable_since")
    #: list of {"name", "attempt", "state", "exit_code", "signal", "started_at", "ended_at"}
    tasks = resource.Body("tasks")


class Event(_OfJob):
    """Something that happened to a job."""

    resources_key = "events"
    base_path = "/jobs/%(job_id)s/events"

    at = resource.Body("at")
    kind = resource.Body("kind")
    message = resource.Body("message")
    detail = resource.Body("detail")


class Series(_OfJob):
    """Values of one metric that one task reported."""

    resources_key = "series"
    base_path = "/jobs/%(job_id)s/metrics"
    _query_mapping = resource.QueryParameters("name", "task", "since", include_pagination_defaults=False)

    name = resource.Body("name")
    task = resource.Body("task")
    #: list of {"x": time, "y": value, "step": step}
    data = resource.Body("data")


class Artifact(_OfJob):
    """A file that a job brought back."""

    resources_key = "artifacts"
    base_path = "/jobs/%(job_id)s/artifacts"

    path = resource.Body("path")
    size = resource.Body("size")
    updated_at = resource.Body("updated_at")


class Checkpoint(_OfJob):
    """What was saved last of a job's checkpoints."""

    attempt = resource.Body("attempt")
    saved_at = resource.Body("saved_at")
    files = resource.Body("files")
    bytes = resource.Body("bytes")


class Package(_Resource):
    """Uploaded training code."""

    resource_key = "package"
    resources_key = "packages"
    base_path = "/packages"
    allow_fetch = allow_delete = allow_list = True
    _query_mapping = resource.QueryParameters("name", "sha256")

    name = resource.Body("name")
    sha256 = resource.Body("sha256")
    size = resource.Body("size")
    created_at = resource.Body("created_at")


class Framework(_Resource):
    """A framework with its roles and the images that have it."""

    resources_key = "frameworks"
    base_path = "/frameworks"
    allow_list = True

    name = resource.Body("name")
    roles = resource.Body("roles")
    images = resource.Body("images")


class Flavor(_Resource):
    """A size of nodes."""

    resources_key = "flavors"
    base_path = "/flavors"
    allow_list = True

    name = resource.Body("name")
    vcpus = resource.Body("vcpus")
    #: MiB
    ram = resource.Body("ram")
    #: GiB
    disk = resource.Body("disk")
    #: {"kind", "count"}, or None
    accelerators = resource.Body("accelerators")
    cost_per_hour = resource.Body("cost_per_hour")
    #: of all projects, now
    nodes_in_use = resource.Body("nodes_in_use")
    jobs_waiting = resource.Body("jobs_waiting")
    #: nodes of it that one more job of the project may have, or None
    quota_left = resource.Body("quota_left")


class Worker(_Resource):
    """A process of the service that carries jobs out; for operators."""

    resources_key = "workers"
    base_path = "/workers"
    allow_list = True

    host = resource.Body("host")
    capacity = resource.Body("capacity")
    draining = resource.Body("draining")
    started_at = resource.Body("started_at")
    seen_at = resource.Body("seen_at")


class Quota(_Resource):
    """How much a project may have at a time, and how much it has: of jobs, nodes and accelerators."""

    project_id = resource.Body("project_id")
    #: -1 for no limit
    limits = resource.Body("limits")
    in_use = resource.Body("in_use")


class Usage(_Resource):
    """What a project had on one day."""

    resources_key = "usage"
    base_path = "/usage"
    allow_list = True
    _query_mapping = resource.QueryParameters("start", "end", "all_projects", "project_id", include_pagination_defaults=False)

    project_id = resource.Body("project_id")
    date = resource.Body("date")
    jobs = resource.Body("jobs")
    node_seconds = resource.Body("node_seconds")
    accelerator_seconds = resource.Body("accelerator_seconds")
    cost = resource.Body("cost")
    currency = resource.Body("currency")
