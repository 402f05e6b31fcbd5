"""Faults on demand, and the count of requests: what tests need beside the APIs of a cloud.

``POST /faults`` takes one JSON object; ``kind`` says what:

http
    Answers of one service fail: ``{"kind": "http", "service": "compute", "method": "POST", "path": "^/servers$",
    "status": 503, "when": "before", "count": 1, "delay": 0}``. ``path`` is a regular expression that is searched for in the
    path after the service's prefix, with and without the version (``/servers``, ``/v2.1/servers``). ``when`` is ``before``
    (the request has no effect) or ``after`` (it has, and the answer is lost). ``status`` 0 or absent with a ``delay``: the
    answer only comes late. ``count`` null: until the fault is deleted. ``service`` and ``method`` may be absent: any.
    ``retry_after`` in whole seconds: the answer says so in the header Retry-After, as one with 429 does.
boot
    The next ``count`` servers go to ERROR, stay in BUILD, or never answer by SSH:
    ``{"kind": "boot", "result": "error" | "never" | "silent", "count": 1}``.
server
    Something happens to one server: ``{"kind": "server", "server": ID, "fault": F}`` with one of ``servers.SERVER_FAULTS``.
settings
    ``{"kind": "settings", "boot_time": S, "delete_time": S, "gpus": N, "vcpus": N, "token_ttl": S, "host_status": 0 | 1,
    "cell_down": 0 | 1, "leave_ports": 0 | 1, "login_delay": S}``; absent ones stay. ``host_status``: whether Nova shows everybody, and
    not the administrator alone, if the host of a server is up. ``cell_down``: Nova can't reach the database of its servers; lists with a
    filter lack them, others have ids alone, nothing can be done with them, and no host is found for new ones. ``leave_ports``: the ports
    of servers in ERROR stay when these are deleted. ``login_delay``: for how many seconds SSH servers think before they let anybody in.
image
    ``{"kind": "image", "image": NAME, "gone": 0 | 1}``: the image is deleted (without ``gone``, too), or back; servers that are still to
    be booted from one that is not there go to ERROR.
tokens
    ``{"kind": "tokens", "expire": "all"}``: no token is valid any more.

``GET /faults`` shows what is armed and the settings; ``DELETE /faults`` disarms it all (settings stay, images are back),
``DELETE /faults/ID`` one of kind ``http``: the answer shows it with the ``count`` that is left, and is 404 if none is.
``GET /requests`` counts requests by service, method and path, and says when the newest of each kind came, in seconds since 1970;
``DELETE /requests`` begins again.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.web import cloud

if TYPE_CHECKING:
    from cml_nova.localcloud.cloud import Cloud

SERVICES = ("identity", "compute", "image", "network")
_VERSION = re.compile(r"^/v[0-9.]+")
_LONGEST_DELAY = 600.0
_TIMES = 1000  # of how many requests of a kind it is kept when they came


@dataclass
class HTTPFault:
    """An armed fault of kind ``http``; ``left`` None is for ever."""

    id: int
    service: str | None
    method: str | None
    path: re.Pattern[str]
    status: int
    when: str
    delay: float
    left: int | None
    retry_after: int | None = None

    def matches(self, service: str, method: str, path: str) -> bool:
        """Whether a request is one that this fault is for; ``path`` is that after the service's prefix."""
        return (self.service in (None, service) and self.method in (None, method)
                and bool(self.path.search(path) or self.path.search(_VERSION.sub("", path))))

    def show(self) -> dict[str, Any]:
        """Give it as it was asked for."""
        return {"id": self.id, "kind": "http", "service": self.service, "method": self.method, "path": self.path.pattern,
                "status": self.status, "when": self.when, "delay": self.delay, "count": self.left, "retry_after": self.retry_after}


class Faults:
    """The armed faults and the counts of requests."""

    def __init__(self, cloud: Cloud, sleep: Callable[[float], None] = time.sleep) -> None:
        self._cloud = cloud
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._http: list[HTTPFault] = []
        self.sleep = sleep
        self.counts: Counter[str] = Counter()
        self.times: dict[str, deque[float]] = {}

    def take(self, service: str, method: str, path: str) -> HTTPFault | None:
        """Give the fault that this request suffers, if any, and count it down."""
        with self._lock:
            fault = next((fault for fault in self._http if fault.matches(service, method, path)), None)
            if fault and fault.left is not None:
                fault.left -= 1
                if not fault.left:
                    self._http.remove(fault)
            return fault

    def count(self, service: str, method: str, path: str) -> None:
        """Count a request; ``path`` has placeholders in place of ids."""
        kind = f"{service} {method} {path}"
        with self._lock:
            self.counts[kind] += 1
            self.times.setdefault(kind, deque(maxlen=_TIMES)).append(time.time())

    def requests(self) -> dict[str, Any]:
        """Give how many requests there were of each kind, and when the newest came."""
        with self._lock:
            return {"counts": dict(sorted(self.counts.items())), "times": {kind: list(self.times[kind]) for kind in sorted(self.times)}}

    def forget_requests(self) -> None:
        """Begin to count anew."""
        with self._lock:
            self.counts.clear()
            self.times.clear()

    def add(self, body: dict[str, Any]) -> dict[str, Any]:
        """Arm or do what the body of ``POST /faults`` says.

        :raises ApiError: 400 naming the field; 404 no such server.
        """
        kinds = {"http": self._add_http, "boot": self._add_boot, "server": self._add_server, "settings": self._set,
                 "image": self._add_image, "tokens": self._add_tokens}
        kind = _field(body, "kind", "", *kinds)
        return {"kind": kind, **(kinds[kind](body) or {})}

    def _add_http(self, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, "service", "method", "path", "status", "when", "count", "delay", "retry_after")
        try:
            path = re.compile(body.get("path", ""))
        except (re.error, TypeError) as error:
            raise errors.bad_request(f"path is not a regular expression: {error}") from None
        count = body.get("count", 1)
        retry_after = _number(body, "retry_after", 0, _LONGEST_DELAY)
        fault = HTTPFault(
            id=next(self._ids), service=_field(body, "service", None, *SERVICES, None), path=path,
            method=_field(body, "method", None, "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", None),
            status=int(_number(body, "status", 0, 599) or 0), when=_field(body, "when", "before", "before", "after"),
            delay=_number(body, "delay", 0, _LONGEST_DELAY) or 0.0,
            left=None if count is None else int(_number({"count": count}, "count", 1, 10**9) or 1),
            retry_after=None if retry_after is None else int(retry_after))
        if not fault.status and not fault.delay:
            raise errors.bad_request("an http fault needs a status (400 to 599) or a delay")
        with self._lock:
            self._http.append(fault)
        return fault.show()

    def _add_boot(self, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, "result", "count")
        result = _field(body, "result", "", "error", "never", "silent")
        count = int(_number(body, "count", 1, 10**6) or 1)
        self._cloud.settings.boot_results.extend([result] * count)
        return {"result": result, "count": count}

    def _add_image(self, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, "image", "gone")
        name = _field(body, "image", "", *(info.name for info in self._cloud.images.list()))
        gone = _field(body, "gone", 1, 0, 1)
        (self._cloud.settings.lost_images.add if gone else self._cloud.settings.lost_images.discard)(name)
        return {"image": name, "gone": gone}

    def _add_server(self, body: dict[str, Any]) -> dict[str, Any]:
        _only(body, "server", "fault")
        self._cloud.servers.inflict(str(body.get("server")), str(body.get("fault")))
        return body

    def _set(self, body: dict[str, Any]) -> dict[str, Any]:
        places = self._places()
        _only(body, *places)
        values = {name: _number(body, name, 0, 10**9) for name in places}
        for name, (owner, attribute, kind) in places.items():
            if values[name] is not None:
                setattr(owner, attribute, kind(values[name]))
        return self.settings()

    def _places(self) -> dict[str, tuple[Any, str, type]]:
        """Tell where each setting is kept, and as what."""
        cloud = self._cloud
        return {
            **{name: (cloud.settings, name, float) for name in ("boot_time", "delete_time")},
            "gpus": (cloud.scheduler, "gpus", int), "vcpus": (cloud.scheduler, "vcpus", int), "token_ttl": (cloud.accounts, "ttl", float),
            **{name: (cloud.settings, name, bool) for name in ("host_status", "cell_down", "leave_ports")},
            "login_delay": (cloud.hypervisor, "login_delay", float),
        }

    def _add_tokens(self, body: dict[str, Any]) -> None:
        _only(body, "expire")
        _field(body, "expire", "", "all")
        self._cloud.accounts.revoke_all()

    def settings(self) -> dict[str, Any]:
        """Give what a fault of kind ``settings`` can change."""
        places = self._places().items()
        return {name: (int if kind is bool else kind)(getattr(owner, attribute)) for name, (owner, attribute, kind) in places}

    def show(self) -> dict[str, Any]:
        """Give what is armed."""
        with self._lock:
            boot = [{"kind": "boot", "result": result, "count": 1} for result in self._cloud.settings.boot_results]
            images = [{"kind": "image", "image": name} for name in sorted(self._cloud.settings.lost_images)]
            return {"faults": [*(fault.show() for fault in self._http), *boot, *images], "settings": self.settings()}

    def remove(self, fault_id: int) -> dict[str, Any]:
        """Disarm a fault of kind ``http``; give it as it was.

        :raises ApiError: 404 there is none of this id (any more).
        """
        with self._lock:
            for fault in self._http:
                if fault.id == fault_id:
                    self._http.remove(fault)
                    return fault.show()
        raise errors.not_found(f"no fault {fault_id} is armed")

    def clear(self) -> None:
        """Disarm everything."""
        with self._lock:
            self._http.clear()
            self._cloud.settings.boot_results.clear()
            self._cloud.settings.lost_images.clear()


def _only(body: dict[str, Any], *names: str) -> None:
    unknown = sorted(set(body) - {"kind", *names})
    if unknown:
        raise errors.bad_request(f"unknown field {unknown[0]!r}; a fault of kind {body['kind']!r} has {', '.join(names)}")


def _field(body: dict[str, Any], name: str, default: Any, *allowed: Any) -> Any:
    value = body.get(name, default)
    if value not in allowed:
        raise errors.bad_request(f"{name} {value!r} is not one of {', '.join(map(str, allowed))}")
    return value


def _number(body: dict[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise errors.bad_request(f"{name} {value!r} is not a number from {low} to {high}")
    return value


blueprint = Blueprint("faults", __name__)


@blueprint.errorhandler(errors.ApiError)
def _render(error: errors.ApiError) -> tuple[Response, int]:
    return jsonify({"error": {"code": error.status, "message": error.message}}), error.status


@blueprint.post("/faults")
def _post_fault() -> tuple[Response, int]:
    # The content type is asked for so that no web page can make a browser send this.
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise errors.bad_request("the body must be a JSON object, with Content-Type: application/json")
    return jsonify(cloud().faults.add(body)), 201


@blueprint.get("/faults")
def _get_faults() -> Response:
    return jsonify(cloud().faults.show())


@blueprint.delete("/faults")
def _delete_faults() -> tuple[str, int]:
    cloud().faults.clear()
    return "", 204


@blueprint.delete("/faults/<int:fault_id>")
def _delete_fault(fault_id: int) -> Response:
    return jsonify(cloud().faults.remove(fault_id))


@blueprint.get("/requests")
def _get_requests() -> Response:
    faults = cloud().faults
    return jsonify(faults.requests())


@blueprint.delete("/requests")
def _delete_requests() -> tuple[str, int]:
    cloud().faults.forget_requests()
    return "", 204
