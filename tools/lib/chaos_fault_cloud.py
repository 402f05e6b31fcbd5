"""Faults of the cloud: its APIs answer badly, its servers do not come or go as they should, a part of it does not answer."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests
from chaos_fault import Fault
from chaos_world import GPUS, INSTANCES, patiently


@dataclass(frozen=True)
class Request:
    """Requests to the cloud that a fault is for."""

    service: str
    method: str | None
    path: str


CREATE_SERVERS, DELETE_SERVER = Request("compute", "POST", "/servers$"), Request("compute", "DELETE", "/servers/")
REQUESTS = (
    CREATE_SERVERS, CREATE_SERVERS, DELETE_SERVER, DELETE_SERVER, Request("compute", "GET", "/servers"), Request("network", "GET", ""),
    Request("network", "POST", "/security-groups$"), Request("network", "POST", "/security-group-rules$"),
    Request("network", "DELETE", "/security-groups/"), Request("network", "POST", "/floatingips$"),
    Request("network", "DELETE", "/floatingips/"), Request("network", "DELETE", "/ports/"), Request("identity", "POST", "/auth/tokens$"),
    Request("identity", "GET", "/auth/tokens$"), Request("image", "GET", ""),
)


class BadAnswers(Fault):
    """The next requests of a kind go wrong. It counts only if there were any."""

    requests: Sequence[Request] = REQUESTS
    count: tuple[int, int] | None = (1, 4)

    def strike(self) -> bool:
        wanted = self.draw.choice(self.requests)
        self.victim = f"{wanted.service} {wanted.method or 'everything'} {wanted.path}"
        count = self.draw.randint(*self.count) if self.count else None
        self._armed = self.world.cloud.fault("http", service=wanted.service, method=wanted.method, path=wanted.path, count=count,
                                             **self.how())
        return True

    def heal(self) -> bool:
        answer = requests.delete(f"{self.world.cloud.url}/faults/{self._armed['id']}", timeout=30)
        assert answer.status_code in (200, 404), answer.text
        return answer.status_code == 404 or self.count is None or answer.json()["count"] < self._armed["count"]

    @abc.abstractmethod
    def how(self) -> dict[str, Any]:
        """Say how they go wrong."""


class Refused(BadAnswers):
    def how(self) -> dict[str, Any]:
        return {"status": self.draw.choice([500, 502, 503, 504]), "when": "before"}


class DoneAllTheSame(BadAnswers):
    """The request fails, and has taken effect."""

    def how(self) -> dict[str, Any]:
        return {"status": self.draw.choice([500, 503, 504]), "when": "after"}


class TimesOut(BadAnswers):
    """No answer comes in time; the request has taken effect, or not yet."""

    count = (1, 2)

    def how(self) -> dict[str, Any]:
        return {"delay": 6, "when": self.draw.choice(["before", "after"])}


class TooMany(BadAnswers):
    def how(self) -> dict[str, Any]:
        return {"status": 429, "retry_after": self.draw.randint(0, 2)}


class DeletesAreRefused(BadAnswers):
    requests = (DELETE_SERVER, Request("network", "DELETE", ""))

    def how(self) -> dict[str, Any]:
        return {"status": 409, "when": "before"}


class ServiceIsDown(BadAnswers):
    """One of the cloud's services is away for a while."""

    requests = tuple(Request(service, None, "") for service in ("identity", "compute", "network", "image"))
    count = None

    def how(self) -> dict[str, Any]:
        return {"status": 503, "when": "before"}


class ServiceIsSlow(BadAnswers):
    """One of the cloud's services takes long for each of its answers, though not too long."""

    requests = ServiceIsDown.requests
    count = None

    def how(self) -> dict[str, Any]:
        return {"delay": self.draw.uniform(0.5, 3), "when": "before"}


class TokensExpire(Fault):
    def strike(self) -> bool:
        self.world.cloud.fault("tokens", expire="all")
        return True


class BootsFail(Fault):
    """The next servers go to ERROR, or stay in BUILD for ever."""

    def strike(self) -> bool:
        self.victim = self.draw.choice(["error", "error", "never"])
        self.world.cloud.fault("boot", result=self.victim, count=self.draw.randint(1, 3))
        return True


class Setting(Fault):
    """The cloud is as it should be, but another for a while."""

    setting: dict[str, Any]
    normal: dict[str, Any]

    def strike(self) -> bool:
        if not self.claim_one(list(self.setting)):
            return False
        self.world.cloud.fault("settings", **self.setting)
        return True

    def heal(self) -> bool:
        self.world.cloud.fault("settings", **self.normal)
        return True


class DeletesAreSlow(Setting):
    setting, normal = {"delete_time": 4}, {"delete_time": 0.2}


class BootsAreSlow(Setting):
    setting, normal = {"boot_time": 3}, {"boot_time": 0.1}


class RoomShrinks(Setting):
    setting, normal = {"gpus": GPUS // 4}, {"gpus": GPUS}


class PortsAreLeft(Setting):
    """Ports of servers that fail to boot stay when these are deleted; the next servers fail."""

    setting, normal = {"leave_ports": 1}, {"leave_ports": 0}

    def strike(self) -> bool:
        if not super().strike():
            return False
        self.world.cloud.fault("boot", result="error", count=self.draw.randint(1, 3))
        return True


class QuotaShrinks(Fault):
    """The project of the service may have few servers for a while, fewer than it has: whoever asks for more has to wait."""

    def strike(self) -> bool:
        if not self.claim_one(["quota"]):
            return False
        self.world.cloud.quota("service", instances=self.draw.randint(1, 5))
        return True

    def heal(self) -> bool:
        patiently(lambda: self.world.cloud.quota("service", instances=INSTANCES))
        return True


class ImageIsGone(Fault):
    """The image that all servers are built from is deleted, and comes back. Who needs a server meanwhile fails, in the cloud's words.

    No job is sent meanwhile: it would be refused.
    """

    def strike(self) -> bool:
        self._taken = self.world.submitting.acquire(blocking=False)
        if not self._taken:
            return False
        for job in list(self.world.jobs.values()):
            job.right.add("FAILED CONFIG")
        self.world.cloud.fault("image", image="plain")
        return True

    def heal(self) -> bool:
        self.world.cloud.fault("image", image="plain", gone=0)
        return True

    def release(self) -> None:
        super().release()
        if self._taken:
            self.world.submitting.release()

    _taken = False


class CellIsDown(Setting):
    """Nova can't reach what it knows of the servers: lists by tag lack them, nothing can be done with them, and none are built."""

    setting, normal = {"cell_down": 1}, {"cell_down": 0}
