"""[api]: the HTTP service."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("auth_strategy", default="keystone", choices=["keystone", "none"],
               help="'keystone' checks each request's token; 'none' trusts X-Project-Id, X-User-Id and X-Roles and is for tests only."),
    cfg.IntOpt("max_limit", default=1000, min=1, help="Most items that one list request returns."),
    cfg.IntOpt("max_body_bytes", default=1024 * 1024, min=1024, help="Largest JSON body that is read, in bytes."),
    cfg.IntOpt("max_package_bytes", default=512 * 1024 * 1024, min=1024, help="Largest training package, in bytes."),
    cfg.IntOpt("max_package_unpacked_bytes", default=4 * 1024 * 1024 * 1024, min=1024,
               help="Largest total size of the files in a training package, in bytes."),
    cfg.IntOpt("max_nodes", default=256, min=1, help="Most nodes (virtual machines) of one job."),
    cfg.IntOpt("max_wait", default=25, min=0, max=120, help="Longest time that a log request may wait for new text, in seconds."),
    cfg.FloatOpt("lookup_cache_time", default=60, min=0,
                 help="Seconds for which a process of the API remembers, for each user, which images, flavors and networks the cloud has. "
                      "No job is refused because of what is remembered: the cloud is asked again before. 0 to ask for each job."),
    cfg.HostAddressOpt("standalone_host", default="127.0.0.1", help="Address that cml-nova-standalone listens on."),
    cfg.PortOpt("standalone_port", default=9517, help="Port that cml-nova-standalone listens on."),
    cfg.IntOpt("standalone_threads", default=24, min=2, help="Threads that serve HTTP requests in cml-nova-standalone."),
]
