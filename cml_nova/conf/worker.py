"""[worker]: the hands."""

from oslo_config import cfg

OPTS = [
    cfg.IntOpt("max_jobs", default=256, min=1,
               help="Most jobs that one worker handles at a time. A job that finds all workers full waits in the queue, whatever room "
                    "there is in the cloud."),
    cfg.FloatOpt("heartbeat_interval", default=10, min=0.1, help="Seconds between heartbeats to the conductor."),
    cfg.FloatOpt("drain_timeout", default=30, min=0, help="Seconds that a stopping worker waits for its jobs to reach a safe point."),
    cfg.FloatOpt("rpc_timeout", default=20, min=1, help="Seconds that a call to the conductor may take."),
]
