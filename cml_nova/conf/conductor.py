"""[conductor]: admission, leases, deadlines."""

from oslo_config import cfg

OPTS = [
    cfg.FloatOpt("lease_time", default=60, min=1,
               help="Seconds after the last heartbeat of its worker until a job may be given to another one."),
    cfg.FloatOpt("sweep_interval", default=5, min=0.1, help="Seconds between looks for queued jobs, expired leases and passed deadlines."),
    cfg.IntOpt("take_overs_per_minute", default=600, min=0,
               help="Most jobs of dead workers that one conductor gives to others at once, and in a minute; 0 for no limit."),
    cfg.FloatOpt("queue_retry_min", default=5, min=0,
               help="Shortest pause, in seconds, before a job is tried again that the cloud had no room for."),
    cfg.FloatOpt("queue_retry_max", default=120, min=0, help="Longest such pause, in seconds; it doubles with each try."),
    cfg.IntOpt("provisioning_timeout", default=900, min=1, help="Seconds that the servers of a job may take to become active."),
    cfg.IntOpt("bootstrap_timeout", default=600, min=1,
               help="Seconds that a node may take to answer by SSH once its server is active, then to be ready, and that its setup command "
                    "may run. A node that takes longer is replaced, before the first attempt once only; a setup that does fails the job. "
                    "Of a node that has answered before, the time in which it is silent counts for unreachable_timeout and not for this."),
    cfg.IntOpt("start_timeout", default=600, min=1,
               help="Seconds that a framework may take to start on all nodes before the attempt is given up."),
    cfg.IntOpt("collect_timeout", default=1800, min=1,
               help="Seconds for which a node that answers may send nothing of the outputs of a training that has succeeded, until it is "
                    "taken for lost; for one that does not answer it is unreachable_timeout. For a job that has failed or was timed out: "
                    "seconds that collecting may take in all, whatever the reason; what is collected by then is kept."),
    cfg.IntOpt("default_max_run_time", default=7 * 86400, min=1, help="Longest run of a job that names no max_run_time, in seconds."),
    cfg.IntOpt("default_max_wait_time", default=7 * 86400, min=1,
               help="Longest wait in the queue of a job that names no max_wait_time, in seconds."),
    cfg.IntOpt("unreachable_timeout", default=7200, min=0,
               help="Seconds without an answer by SSH after which a node is taken for lost although the cloud calls its server ACTIVE; "
                    "until then its processes are taken to go on, and outputs of a training that has succeeded are waited for. 0 for "
                    "never. A node whose host is down by Nova's word is lost at once when it does not answer; Nova says so only where its "
                    "policy os_compute_api:servers:show:host_status (or :unknown-only) includes the service's account."),
    cfg.IntOpt("max_infra_restarts", default=10, min=0, help="How often a job is started anew because nodes were lost."),
    cfg.FloatOpt("restart_pause_min", default=10, min=0,
                 help="Shortest pause, in seconds, before a job's processes are started anew for the second time. The first restart after "
                      "an error of the program, and the first after a loss of a machine, come at once."),
    cfg.FloatOpt("restart_pause_max", default=600, min=0, help="Longest such pause, in seconds; it doubles with each restart of its kind."),
    cfg.PortOpt("metrics_port", help="Port on which Prometheus finds the metrics of this conductor, under /metrics. None without it."),
    cfg.HostAddressOpt("metrics_host", default="127.0.0.1", help="Address on which these are served: whoever can connect may read them."),
    cfg.IntOpt("leak_suspect_after", default=300, min=1,
               help="Seconds of a clean-up without success until an event says so: more than a restart of the cloud's API takes."),
    cfg.FloatOpt("orphan_interval", default=300, min=1, help="Seconds between looks for cloud resources that no job owns."),
    cfg.FloatOpt("orphan_grace", default=300, min=0,
                 help="Age in seconds that such a resource must have before anything is done about it: as the cloud says, or since it was "
                      "first seen without a job, whichever is longer."),
    cfg.StrOpt("orphan_action", default="delete", choices=["log", "delete"],
               help="What is done about a cloud resource that no job owns: 'log' tells of it, 'delete' deletes it as well."),
]
