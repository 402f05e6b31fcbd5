"""What the real-cloud benchmark reads in logs: when a job's milestones were, and which requests a user sent to the cloud."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

#: message of the service's log -> milestone; of several lines, which come from nodes, the last counts
MILESTONES = (
    (r"goes to worker", "leased"),
    (r"asks for \d+ servers", "asks for servers"),
    (r"has asked for \d+ servers", "asked for servers"),
    (r"goes from PROVISIONING to BOOTSTRAPPING", "active"),
    (r"node \d+ at \S+ is connected", "runner up"),
    (r"goes from BOOTSTRAPPING to RUNNING", "ready"),
    (r"\S+:\d+ is started", "started"),
    (r"goes from RUNNING to COLLECTING", "trained"),
    (r"goes from COLLECTING to TEARDOWN", "collected"),
)
#: service -> file, as OpenStack's own logging of requests is usually called
ACCESS_LOGS = {"nova": "nova-api.log", "neutron": "neutron-server.log", "glance": "glance.log"}

#: how long the login of a node was before the line that says that it is connected
_LOGIN = re.compile(r"is connected; its runner was up ([0-9.]+) s after the login")
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (.*)")
_REQUEST = re.compile(r'\[(\S+) req-\S+ ([0-9a-f]{32}) .*?"([A-Z]+) (/\S*) HTTP/')
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")


def marks(logs: Iterable[str], job_id: str, began: float) -> dict[str, float]:
    """Find a job's milestones.

    :param logs: whole logs of the service's processes.
    :param began: time of the submission.
    :returns: milestone -> seconds after the submission.
    """
    found: dict[str, float] = {}
    for when, text in _lines(logs, job_id):
        names = {name: when - began for pattern, name in MILESTONES if re.search(pattern, text)}
        if login := _LOGIN.search(text):
            names["logged in"] = when - began - float(login[1])
        found.update({name: max(seconds, found.get(name, seconds)) for name, seconds in names.items()})
    return found


def _lines(logs: Iterable[str], job_id: str) -> Iterator[tuple[float, str]]:
    """Give the time and text of each line on a job."""
    for log in logs:
        for match in filter(None, map(_LINE.match, log.splitlines())):
            if job_id in match[2]:
                yield datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S.%f").timestamp(), match[2]


def requests(log: str, user_id: str) -> Counter[str]:
    """Count the requests that a user sent; what a service of the cloud sends on in the user's name has another request's id first.

    :returns: "METHOD /path" with {id} for ids and without the query -> number.
    """
    found: Counter[str] = Counter()
    for first, user, method, path in _REQUEST.findall(log):
        if user == user_id and first == "None":
            found[f"{method} {_ID.sub('{id}', path.partition('?')[0])}"] += 1
    return found
