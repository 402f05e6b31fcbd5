"""What machines that never answered have printed on their consoles: with their servers, it is gone for good."""

from __future__ import annotations

import re
from collections.abc import Mapping

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: lines of a console that operators are shown, and characters of its last line that users are
_LINES, _WIDTH = 40, 200
#: most consoles of a job that are asked for, one after the other: machines of one image seldom have more to say
_CONSOLES = 3
#: colours and movements of the cursor (ECMA-48, "control sequences"), of which systemd makes much use
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def with_last_words(work: Work, nodes: Mapping[int, str]) -> dict[int, str]:
    """Have the log show how the consoles of nodes end, and add to why they are given up what is the last line of each.

    :param nodes: why, as a clause, by rank.
    :returns: the same, with more to say where the cloud has a console to show.
    """
    told = dict(nodes)
    for rank in sorted(nodes)[:_CONSOLES]:
        lines = _lines(work, rank)
        if lines:
            told[rank] = f"{nodes[rank]}; the last line of its console is: {lines[-1][:_WIDTH]}"
    return told


def _lines(work: Work, rank: int) -> list[str]:
    """Give the last lines of a node's console, those without any text left out; none if there is no console to be had."""
    server_id = work.job.nodes[rank]["server_id"]
    try:
        console = work.tools.fleet.console(server_id, _LINES)
    except exception.CMLError as error:
        LOG.warning("Job %s: the console of node %d can't be shown: %s", work.job.id, rank, error.message)
        return []
    lines = [line for line in map(_printable, console.splitlines()) if line]
    LOG.warning("Job %s: node %d, server %s, has never answered. Its console ends with:\n%s", work.job.id, rank, server_id,
                "\n".join(f"    {line}" for line in lines))
    return lines


def _printable(line: str) -> str:
    """Leave out what is no text, and would do something to the terminal of who reads it."""
    return "".join(c for c in _CONTROL.sub("", line) if c.isprintable()).strip()
