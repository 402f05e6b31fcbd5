"""What the service under test, and the checks after each test, need of a cloud: whichever it is, local or real."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keystoneauth1 import session as ks_session

#: option group -> name -> value
Options = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Pace:
    """How a client waits: deadlines are multiplied by ``patience``, looks are ``interval`` seconds apart."""

    patience: float = 1.0
    interval: float = 0.05


class Cloud(abc.ABC):
    """A cloud with an account for the service and several users."""

    pace = Pace()
    #: entries of clouds.yaml: a user of one project, one of another project, an administrator
    users: tuple[str, str, str]

    @abc.abstractmethod
    def options(self) -> Options:
        """Give the options that the service has on this cloud: its account, the network of its nodes, intervals."""

    @abc.abstractmethod
    def session(self, cloud: str) -> ks_session.Session:
        """Give a keystoneauth session for an entry of clouds.yaml."""

    @abc.abstractmethod
    def servers(self, job_id: str | None = None) -> list[dict[str, Any]]:
        """List all servers of the service as an administrator sees them, or a job's."""

    @abc.abstractmethod
    def leftovers(self) -> list[str]:
        """List what is in the cloud now and should not be, once all jobs are over."""

    @abc.abstractmethod
    def heal(self) -> None:
        """Take back all faults that a test has arranged for."""

    @property
    @abc.abstractmethod
    def logs(self) -> dict[str, str]:
        """The ends of the cloud's own logs, as far as they can be read here, by name."""


def merge(*sources: Options) -> dict[str, dict[str, Any]]:
    """Lay options over each other, the later over the earlier."""
    merged: dict[str, dict[str, Any]] = {}
    for source in sources:
        for group, values in source.items():
            merged.setdefault(group, {}).update(values)
    return merged
