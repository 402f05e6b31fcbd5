"""cml-nova-localcloud: a stand-in for an OpenStack cloud on this machine, for tests and for trying the service out."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from pathlib import Path

from cml_nova.localcloud.cloud import Options
from cml_nova.localcloud.hypervisor import HypervisorError
from cml_nova.localcloud.images import ImageError, ImageStore
from cml_nova.localcloud.serve import ServeError, check_network, listen, serve


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds of at least 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cml-nova-localcloud", description=(
        "A stand-in for an OpenStack cloud on one machine, for tests and for trying cml_nova out. It does not separate tenants' "
        "machines from each other and listens on loopback only: never use it for anything else."))
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("serve", help="run the cloud until SIGTERM", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run.add_argument("--host", default="127.0.0.1", help="loopback address of the APIs")
    run.add_argument("--port", type=_count, default=9510, help="port of the APIs; 0 takes a free one")
    run.add_argument("--boot-time", type=_seconds, default=0.2, metavar="S", help="seconds until a new server is ACTIVE")
    run.add_argument("--delete-time", type=_seconds, default=0.1, metavar="S", help="seconds until a deleted server is gone")
    run.add_argument("--gpus", type=_count, default=8, metavar="N", help="GPUs of all hosts together")
    run.add_argument("--vcpus", type=_count, default=100000, metavar="N", help="VCPUs of all hosts together")
    run.add_argument("--network", default="127.64.0.0/16", metavar="CIDR", help="addresses of the servers, a part of 127.0.0.0/8")
    run.add_argument("--ssh-port", type=_count, default=2200, metavar="PORT", help="port of the servers' SSH")
    run.add_argument("--token-ttl", type=_seconds, default=3600, metavar="S", help="seconds that a token is valid")
    run.add_argument("--ml-endpoint", metavar="URL", help="URL of the machine-learning service for the catalog")

    image = commands.add_parser("image", help="the images that servers are made from").add_subparsers(dest="image_command", required=True)
    build = image.add_parser("build", help="install the frameworks of some images")
    build.add_argument("names", nargs="+", metavar="NAME")
    listing = image.add_parser("list", help="list the images that are built")
    for command in (run, build, listing):
        command.add_argument("--state-dir", type=Path, required=True, metavar="DIR", help="where the cloud keeps everything")
        command.add_argument("--images-dir", type=Path, metavar="DIR", help="where the images are, if not in STATE_DIR/images")
    return parser


def _serve(args: argparse.Namespace) -> None:
    # A list of 2 000 servers makes a few hundred thousand objects. At the usual thresholds it brings on collections of all there are, in
    # which no guest answers for up to a second.
    gc.set_threshold(200_000, 5, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    cidr = check_network(args.network)
    listener = listen(args.host, args.port)
    host, port = listener.getsockname()
    args.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = Options(url=f"http://{host}:{port}", token_ttl=args.token_ttl, gpus=args.gpus, vcpus=args.vcpus, cidr=cidr,
                      boot_time=args.boot_time, delete_time=args.delete_time, ml_endpoint=args.ml_endpoint)

    def ready() -> None:
        print(f"Local cloud (for tests and trials only) at {options.url}; use it with "  # one line: scripts wait for it
              f"OS_CLIENT_CONFIG_FILE={args.state_dir.absolute() / 'clouds.yaml'} OS_CLOUD=local", flush=True)

    serve(args.state_dir, options, listener, _images_dir(args), args.ssh_port, ready)


def _images_dir(args: argparse.Namespace) -> Path:
    return Path(args.images_dir or args.state_dir / "images")


def _build_images(args: argparse.Namespace) -> None:
    store = ImageStore(_images_dir(args))
    for name in args.names:
        info = store.build(name, print)
        print(f"{info.name}: {info.size // 2**20} MiB in {info.path}")


def _list_images(args: argparse.Namespace) -> None:
    for info in ImageStore(_images_dir(args)).list():
        print(f"{info.name}\t{info.properties['cml_framework']} {info.properties['cml_framework_version']}\t{info.size // 2**20} MiB")


def main(argv: list[str] | None = None) -> int:
    """Run the command; give its exit status."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "serve":
            _serve(args)
        elif args.image_command == "build":
            _build_images(args)
        else:
            _list_images(args)
    except (ServeError, HypervisorError, ImageError) as error:
        print(f"cml-nova-localcloud: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # of a build; serve has its own way to end
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
