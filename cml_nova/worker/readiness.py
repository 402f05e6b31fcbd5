"""Nodes that are made ready for the next attempt, and what comes of those that can't be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from cml_nova import exception
from cml_nova.states import Cause
from cml_nova.worker import losses
from cml_nova.worker.silence import Silence
from cml_nova.worker.work import Work


class NotReady(Exception):
    """The nodes can't be made ready; the arguments are cause, reason, and more columns of the job."""

    def __init__(self, cause: Cause, reason: str, **columns: Any) -> None:
        super().__init__(reason)
        self.columns = {"cause": cause, "status_reason": reason, **columns}


class Lost(Exception):
    """Nodes are lost; the arguments say which, and why, and what is to be kept of it in the job's ``runtime``."""

    def __init__(self, nodes: dict[int, str], **runtime: Any) -> None:
        super().__init__(nodes)
        self.nodes = nodes
        self.runtime = runtime


def give_up(work: Work, nodes: Mapping[int, str], cause: Cause, hint: str = "") -> NoReturn:
    """Have nodes replaced that are broken, or whose address another machine has; before the first attempt once only.

    Where a replacement is no better then, it may be for the image or the network.

    :param nodes: why, by rank.
    :param hint: what the user may look for in the latter case.
    :raises Lost, NotReady: always.
    """
    replaced = set(work.job.runtime.get("unfit", []))
    again = replaced & set(nodes)
    if again and not work.job.attempt:
        what = "; ".join(f"{name_of(work.job.nodes[rank])}: {nodes[rank]}" for rank in sorted(again))
        raise NotReady(cause, f"{what.rstrip('.')}. The machine before it was no better. {hint}".rstrip())
    raise Lost(dict(nodes), unfit=sorted(replaced | set(nodes)))


def look(work: Work, silence: Silence, began: float) -> None:
    """Tell of nodes that do not answer. :raises Lost: nodes are lost."""
    news = silence.news()
    if news:
        work.report(**news)
    lost = losses.find(work, work.tools.watch.latest(work.job.id, newer_than=began), silence.seconds())
    if lost:
        raise Lost(lost)


def name_of(node: dict[str, Any]) -> str:
    return f"Node {node['rank']} ({node['role']}:{node['index']}, {node['address']})"


def raise_first(work: Work, results: dict[int, Any]) -> None:
    """:raises RemoteError: one of the nodes failed for a reason that may pass; the step is run again."""
    for rank, result in results.items():
        if isinstance(result, exception.NodeCommandFailed):
            raise NotReady(Cause.PLATFORM, f"{name_of(work.job.nodes[rank])}: {result.message}")
        if isinstance(result, exception.RemoteError):
            raise result
