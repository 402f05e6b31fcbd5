"""The command line of tools/quickstart. Only the standard library, and a syntax that any Python 3.6 reads."""

import argparse
from pathlib import Path

import bootstrap

DESCRIPTION = """\
Train a small model on several machines that are booted for it, on this computer alone: sets everything up, starts the service and a
stand-in OpenStack cloud on the loopback interface, submits an example, shows its progress, fetches the model and tries it, and
makes sure that nothing is left in the cloud."""


def _workers(text):
    count = int(text)
    if not 1 <= count <= 8:
        raise argparse.ArgumentTypeError(f"{count} workers do not fit on one computer; 1 to 8 may")
    return count


def _port(text):
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port; ports are 1 to 65535")
    return port


def parse(argv):
    """Read the arguments.

    :raises SystemExit: they are wrong, or help was asked for.
    """
    parser = argparse.ArgumentParser(prog="tools/quickstart", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--framework", choices=["tensorflow", "mxnet"], default="tensorflow", help="default: %(default)s")
    parser.add_argument("--strategy", choices=["multiworker", "ps"],
                        help="TensorFlow's: all workers in step (the default), or workers with a parameter server")
    parser.add_argument("--workers", type=_workers, metavar="N", default=2, help="how many workers train; default: %(default)s")
    parser.add_argument("--keep", action="store_true", help="leave the service and the cloud running, and say how to talk to them")
    parser.add_argument("--down", action="store_true", help="stop what an earlier --keep left running, and do nothing else")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", default=bootstrap.default_state_dir(),
                        help="where everything is installed and kept; default: %(default)s")
    parser.add_argument("--port", type=_port, default=9517, help="port of the service on 127.0.0.1; default: %(default)s")
    parser.add_argument("--cloud-port", type=_port, default=9510, help="port of the cloud's APIs on 127.0.0.1; default: %(default)s")
    parser.add_argument("--network", metavar="CIDR", default="127.64.0.0/16",
                        help="addresses of the cloud's servers, a part of 127.0.0.0/8; default: %(default)s")
    options = parser.parse_args(argv)
    if options.framework == "mxnet" and options.strategy:
        parser.error("--strategy is a matter of TensorFlow; MXNet always trains with its key-value servers")
    if options.port == options.cloud_port:
        parser.error("--port and --cloud-port must be different")
    options.state_dir = options.state_dir.expanduser().resolve()
    return options
