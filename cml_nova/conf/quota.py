"""[quota]: how much of everything a project may have at a time."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("driver", default="database", choices=["database", "unified"],
               help="Where limits of projects are kept: 'database' is the service's own, set by PUT /v1/quota/{project_id}, with those of "
                    "this group for projects that have none. 'unified' is Keystone, as [oslo_limit] says: registered limits and limits of "
                    "the resources ml_jobs, ml_nodes and ml_accelerators; the options below mean nothing then."),
    cfg.IntOpt("jobs", default=-1, min=-1,
               help="Most jobs of a project that have not ended, where no other limit is set for it; -1 for no limit."),
    cfg.IntOpt("nodes", default=-1, min=-1, help="Most nodes (virtual machines) of all these jobs together, also of those in the queue."),
    cfg.IntOpt("accelerators", default=-1, min=-1, help="Most accelerators of all these nodes together, as their flavors promise them."),
]
