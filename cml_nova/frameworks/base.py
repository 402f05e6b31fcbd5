"""What a framework has to say about a job, and what is the same for all of them.

A *node* is a virtual machine, a *task* a process. Most tasks have a node of their own; a framework may put helpers of its own
(MXNet's scheduler and servers) beside a user's tasks. A task is named ``role:index``.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stevedore import driver, extension
from stevedore import exception as stevedore_exception

from cml_nova import exception
from cml_nova.hints import nearest
from cml_nova.states import Outcome


@dataclass(frozen=True)
class NodeSlot:
    """A node to be: its rank is its place in ``Layout.nodes``."""

    role: str
    index: int


@dataclass(frozen=True)
class Task:
    """A process to be. ``node`` is the rank of its node, ``ports`` how many free TCP ports it needs there."""

    role: str
    index: int
    node: int
    ports: int = 1

    @property
    def name(self) -> str:
        return f"{self.role}:{self.index}"


@dataclass(frozen=True)
class Layout:
    """The nodes and tasks of a job."""

    nodes: tuple[NodeSlot, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Place:
    """A task's place in one attempt: address of its node, and the free ports found there."""

    task: Task
    address: str
    ports: tuple[int, ...]

    @property
    def endpoint(self) -> str:
        """Address and first port in the form host:port, with an IPv6 address in brackets."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.ports[0]}"


@dataclass(frozen=True)
class TaskState:
    """What is known of a task: PENDING, RUNNING, EXITED (by itself), STOPPED (by us) or LOST (its node can't say how it ended).

    :ivar oom: whether the kernel killed it, or a part of it, for want of memory; None where that is not known.
    :ivar log_error: why its node could not keep a part of its log.
    """

    state: str = "PENDING"
    exit_code: int | None = None
    signal: int | None = None
    oom: bool | None = None
    log_error: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in ("EXITED", "STOPPED", "LOST")

    @property
    def failed(self) -> bool:
        return self.state == "LOST" or (self.state == "EXITED" and (self.exit_code != 0 or self.signal is not None))


@dataclass(frozen=True)
class Verdict:
    """How the attempt stands: ``outcome`` is None while it goes on; ``culprit`` names the task that failed it."""

    outcome: Outcome | None = None
    culprit: str | None = None


class Framework(abc.ABC):
    """A framework's contract. Stateless; every method is a pure function."""

    name: str
    #: role -> (fewest, most) nodes; most None for no limit. The first one is what ``workers: N`` means.
    roles: Mapping[str, tuple[int, int | None]]

    def check(self, counts: Mapping[str, int]) -> None:
        """Refuse a set of roles that the framework can't be started with.

        :param counts: role -> number of nodes.
        :raises BadRequest: names the role, its count, and what would do.
        """
        unknown = sorted(set(counts) - set(self.roles))
        if unknown:
            raise exception.BadRequest(
                f"roles: {self.name} has no role {unknown[0]!r}; its roles are {', '.join(self.roles)}.")
        for role, (low, high) in self.roles.items():
            count = counts.get(role, 0)
            if count < low or (high is not None and count > high):
                limit = f"at least {low}" if high is None else f"{low} to {high}" if low != high else f"exactly {low}"
                raise exception.BadRequest(f"roles.{role}.count: {self.name} takes {limit}, not {count}.")

    def layout(self, counts: Mapping[str, int]) -> Layout:
        """Lay out nodes and tasks: by default a node and a task for each counted instance, in the order of ``roles``."""
        slots = tuple(NodeSlot(role, i) for role in self.roles for i in range(counts.get(role, 0)))
        return Layout(slots, tuple(Task(slot.role, slot.index, rank) for rank, slot in enumerate(slots)))

    @abc.abstractmethod
    def environment(self, task: Task, table: Sequence[Place]) -> dict[str, str]:
        """Give the framework's own variables for one task.

        :param table: the places of all tasks of the attempt.
        """

    def essential(self, layout: Layout) -> tuple[str, ...]:
        """Name the tasks whose exit with 0 makes the job succeed; by default all."""
        return tuple(task.name for task in layout.tasks)

    def helper_command(self, task: Task) -> list[str] | None:
        """Give the command of a task that is a helper of the framework; None for one that runs the user's program.

        A ``command`` that the job gives for the task's very role goes before it, the job's common ``command`` does not.
        """
        return None

    def verdict(self, layout: Layout, states: Mapping[str, TaskState]) -> Verdict:
        """Judge an attempt by the states of its tasks."""
        for task in layout.tasks:
            if states.get(task.name, TaskState()).failed:
                return Verdict(Outcome.FAILED, task.name)
        if all(states.get(name, TaskState()).state == "EXITED" for name in self.essential(layout)):
            return Verdict(Outcome.SUCCEEDED)
        return Verdict()


class Custom(Framework):
    """Any program: it gets the generic variables only, and the job is done when all of its processes are."""

    name = "custom"
    roles = {"worker": (1, None), "chief": (0, 1), "ps": (0, None), "evaluator": (0, None)}

    def environment(self, task: Task, table: Sequence[Place]) -> dict[str, str]:
        return {}


def common_environment(job_id: str, attempt: int, layout: Layout, task: Task, table: Sequence[Place]) -> dict[str, str]:
    """Give the variables that every task gets, whatever its framework; directories are the runner's business."""
    addresses = {place.task.node: place.address for place in table}
    master = table[0]
    return {
        "CML_JOB_ID": job_id,
        "CML_ATTEMPT": str(attempt),
        "CML_ROLE": task.role,
        "CML_ROLE_INDEX": str(task.index),
        "CML_NODE_RANK": str(task.node),
        "CML_NUM_NODES": str(len(layout.nodes)),
        "CML_NODE_IPS": ",".join(addresses[rank] for rank in range(len(layout.nodes))),
        "CML_MASTER_ADDR": master.address,
        "CML_MASTER_PORT": str(master.ports[0]) if master.ports else "",
        "CML_NODE_ADDR": addresses[task.node],
    }


def get_framework(name: str) -> Framework:
    """Find a framework by name.

    :raises BadRequest: there is none of that name.
    """
    try:
        return driver.DriverManager("cml_nova.frameworks", name, invoke_on_load=True).driver
    except stevedore_exception.NoMatches:
        hint = nearest(name, "frameworks", sorted(framework_names()))
        raise exception.BadRequest(f"framework.name: there is no framework {name!r}; {hint}.") from None


def framework_names() -> list[str]:
    """Names of the installed frameworks."""
    return extension.ExtensionManager("cml_nova.frameworks").names()
