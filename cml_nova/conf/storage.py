"""[storage]: where packages, logs and outputs are kept."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("driver", default="file",
               help="What keeps them: 'file', or a driver that another package brings (an entry point in cml_nova.storage)."),
    cfg.StrOpt("path", default="/var/lib/cml_nova", help="Directory of the file driver; shared by all hosts of api and worker."),
]
