"""[tunnel]: the way of users to the nodes of their jobs."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("public_url",
               help="URL under which users reach the workers' tunnels, such as wss://cloud.example/ml-tunnel; for the API. There are no "
                    "tunnels without it."),
    cfg.PortOpt("port", help="Port on which a worker takes tunnels. None without it."),
    cfg.HostAddressOpt("host", default="127.0.0.1",
                       help="Address on which a worker takes tunnels. What comes there is not encrypted: a proxy that speaks TLS goes "
                            "before it."),
    cfg.IntOpt("max_sessions", default=100, min=1, help="Most tunnels that one worker has open; each takes five threads and five files."),
    cfg.FloatOpt("idle_timeout", default=3600, min=0,
                 help="Seconds after which a tunnel through which nothing went is closed. 0 for never."),
]
