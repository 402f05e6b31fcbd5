"""What a job has in the cloud, and the one way to be rid of it: for its own teardown, for orphans, and for operators."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.compute.fleet import Fleet

LOG = logging.getLogger(__name__)


def clear(fleet: Fleet, job_id: str, *, known: Collection[str] = (), asked: bool = True, floating: bool = True,
          wait: Callable[[], object] = lambda: None) -> bool:
    """Delete what there is of a job; tell whether nothing was left at the end. A failure in one part never skips the others.

    Lists by tag do not tell of servers in a part of the cloud that does not answer. While there are any such, whosever they are, nobody
    can say that nothing is left of a job which has asked for some. So what counts in the end is one list of all servers of the project,
    which all jobs that end at a time share.

    :param known: ids of servers that the job is known to have had; those that lists by tag do not tell of are deleted as well.
    :param asked: whether the job has ever asked for servers.
    :param floating: whether the job may have floating addresses.
    :param wait: is called when the deletion of servers was asked for, to wait for it as long as it seems fit.
    """
    parts = [partial(_servers, fleet, job_id, set(known), asked, wait), partial(_ports, fleet, job_id),
             *([partial(_floating, fleet, job_id)] if floating else []), partial(_groups, fleet, job_id)]
    return all([_attempt(job_id, part) for part in parts])


def _attempt(job_id: str, part: Callable[[], bool]) -> bool:
    try:
        return part()
    except exception.CloudError as error:
        LOG.warning("Job %s: clean-up goes on after: %s", job_id, error.message)
        return False


def _servers(fleet: Fleet, job_id: str, known: set[str], asked: bool, wait: Callable[[], object]) -> bool:
    listed = fleet.servers(job_id)
    unlisted = fleet.remaining(known - {s.id for s in listed})
    fleet.delete(sorted({s.id for s in listed if not s.deleting} | unlisted))
    if listed or unlisted:
        wait()
    if not asked and not listed:
        return True
    census = fleet.census()
    if asked and census.hidden:
        LOG.warning("Job %s: a part of the cloud does not answer; %d servers there may be the job's", job_id, len(census.hidden))
        return False
    return job_id not in census.jobs and not fleet.remaining(known, census)


def _ports(fleet: Fleet, job_id: str) -> bool:
    """Ports that Nova left behind; those it made carry no tag, so they are found by the job's security group."""
    left = fleet.leftover_ports(job_id)
    if left:
        fleet.delete_ports(left)
    return not left


def _floating(fleet: Fleet, job_id: str) -> bool:
    """Floating addresses stay when their ports go."""
    fleet.floating.delete(job_id)
    return not fleet.floating.ids(job_id)


def _groups(fleet: Fleet, job_id: str) -> bool:
    fleet.delete_groups(job_id)
    return not fleet.groups(job_id)
