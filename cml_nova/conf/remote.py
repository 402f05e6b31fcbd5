"""[remote]: SSH to the nodes and the runner on them."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("user", default="cml", help="Login name on the nodes; an image's property cml_ssh_user overrides it."),
    cfg.PortOpt("port", default=22, help="SSH port of the nodes; an image's property cml_ssh_port overrides it."),
    cfg.StrOpt("root", default=".cml", help="Directory on the nodes that jobs live in; relative to the login's home."),
    cfg.FloatOpt("connect_timeout", default=30, min=0.5,
                 help="Seconds that one attempt to log in and start the runner may take; a busy node that has just booted is slow."),
    cfg.IntOpt("parallel", default=64, min=1, help="Most SSH connects of one job in flight."),
    cfg.FloatOpt("stop_grace", default=10, min=0, help="Seconds between TERM and KILL when processes are stopped."),
    cfg.FloatOpt("unreachable_after", default=30, min=1, help="Seconds without a sign of life until a node is called unreachable."),
    cfg.IntOpt("power_off_after", default=86400, min=0,
               help="Seconds after which a node powers itself off when its processes have ended and no worker was connected: the last "
                    "resort where nobody is left to delete it. What was not collected by then is lost with the node. 0 for never."),
    cfg.IntOpt("max_log_bytes", default=1024 * 1024 * 1024, min=1024, help="Most log that is kept of one task and attempt, in bytes."),
    cfg.FloatOpt("checkpoint_interval", default=60, min=1,
                 help="Seconds between saves of what has changed in CML_CHECKPOINT_DIR of a running job; a job may name others."),
    cfg.FloatOpt("last_save_timeout", default=120, min=0,
                 help="Most seconds, after its processes have ended, that the last save of the checkpoint of a job may take that was "
                      "cancelled or has used up its max_run_time. 0: there is none, and a restart goes on from the save before."),
    cfg.IntOpt("max_checkpoint_bytes", default=64 * 1024 * 1024 * 1024, min=1024,
               help="Largest checkpoint of a job that is saved while it runs, all files of all nodes together, in bytes."),
    cfg.IntOpt("max_checkpoint_files", default=10000, min=1, help="Most files in such a checkpoint."),
    cfg.IntOpt("max_output_bytes", default=64 * 1024 * 1024 * 1024, min=1024,
               help="Most output that is collected from one node, in bytes."),
    cfg.IntOpt("max_output_files", default=100_000, min=1,
               help="Most files that are collected from one node's output directory, and as many from its checkpoint directory."),
]
