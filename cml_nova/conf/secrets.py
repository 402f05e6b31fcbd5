"""[secrets]: what seals keys and secret values at rest."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("key_file", default="/etc/cml_nova/fernet.keys",
               help="File of Fernet keys, one a line, newest first; the same on every host of api and worker."),
]
