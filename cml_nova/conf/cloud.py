"""[cloud]: the service's own account on the cloud, and what its servers get there."""

from keystoneauth1 import loading as ks_loading
from oslo_config import cfg

GROUP = "cloud"

OPTS = [
    cfg.StrOpt("cloud", help="Name of an entry of clouds.yaml to use instead of the auth options of this group."),
    cfg.StrOpt("deployment", default="default",
               help="Name that tags everything this deployment creates. Two deployments in one project must have different names."),
    cfg.StrOpt("region_name", help="Region in which servers are created."),
    cfg.StrOpt("interface", default="public", choices=["public", "internal", "admin"], help="Which endpoints of the catalog are used."),
    cfg.StrOpt("network", help="Name or id of the network that servers are attached to; a job may name another."),
    cfg.StrOpt("floating_network",
               help="Name or id of an external network: each node gets a floating address of it, to which the workers connect. Needed "
                    "where they do not reach the addresses of the nodes' network; the nodes themselves talk by those in any case. None "
                    "without it."),
    cfg.StrOpt("ssh_source_cidr", default="0.0.0.0/0",
               help="Where the workers connect from: the only source that may reach SSH on the nodes."),
    cfg.IntOpt("request_timeout", default=60, min=1, help="Longest time for one request to the cloud, in seconds."),
    cfg.FloatOpt("settle_time", default=30, min=0,
                 help="Seconds after a create that ended in an error until servers that it may have made all the same must have appeared."),
    cfg.FloatOpt("poll_fast", default=0.1, min=0.05,
                 help="Shortest pause between looks at the servers of all jobs, in seconds. It grows with the time that a change is waited "
                      "for, and with the time that the cloud takes to answer."),
    cfg.FloatOpt("poll_slow", default=5.0, min=0.1, help="Seconds between looks at the servers while none of them is expected to change."),
    cfg.IntOpt("delete_parallel", default=8, min=1,
               help="Most deletions, and creations of floating addresses, that one worker has in flight."),
]


def register_auth_opts(conf: cfg.ConfigOpts) -> None:
    """Register keystoneauth's session and auth options in this group."""
    ks_loading.register_session_conf_options(conf, GROUP)
    ks_loading.register_auth_conf_options(conf, GROUP)


def auth_opts() -> list[cfg.Opt]:
    """Those options, for the sample."""
    return [*ks_loading.get_session_conf_options(), *ks_loading.get_auth_common_conf_options(),
            *ks_loading.get_auth_plugin_conf_options("v3password")]
