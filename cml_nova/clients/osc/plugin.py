"""What the ``openstack`` command loads at its start, whatever it is asked to do: nothing that takes time may be imported here."""

from __future__ import annotations

import argparse
from typing import Any

from osc_lib import exceptions, utils

DEFAULT_API_VERSION = "1"
#: the service type with underscores, so that openstacksdk finds the version that the user asks for
API_NAME = "machine_learning"
API_VERSION_OPTION = "os_machine_learning_api_version"
API_VERSIONS = ("1",)


def make_client(instance: Any) -> Any:
    """Give the SDK proxy of the service.

    :raises CommandError: the catalog does not have the service.
    """
    from cml_nova.clients import sdk

    sdk.register(instance.sdk_connection)
    try:
        return instance.sdk_connection.machine_learning
    except sdk.ServiceNotFound as error:
        raise exceptions.CommandError(str(error)) from None


def build_option_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the plugin's global option."""
    parser.add_argument(
        "--os-machine-learning-api-version", metavar="<machine-learning-api-version>",
        default=utils.env("OS_MACHINE_LEARNING_API_VERSION"),
        help=f"Machine learning API version, default={DEFAULT_API_VERSION} (Env: OS_MACHINE_LEARNING_API_VERSION)")
    return parser


def check_api_version(version: str) -> bool:
    """Accept any version: openstacksdk negotiates it with the service."""
    return True
