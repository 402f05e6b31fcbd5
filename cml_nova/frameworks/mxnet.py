"""MXNet: the variables that its key-value store (ps-lite) starts from, and the helpers that it needs.

Sources of the contract: ps-lite's docs/env.md and MXNet's tools/launch.py. ``import mxnet`` never returns in a scheduler
or a server, which is why these need no program: they serve inside the import and exit when all workers are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cml_nova.frameworks.base import Framework, Layout, NodeSlot, Place, Task


class MXNet(Framework):
    """``dist_*`` key-value stores. Servers and scheduler that the job does not count run beside the workers."""

    name = "mxnet"
    roles = {"worker": (1, None), "server": (0, None), "scheduler": (0, 1)}

    def layout(self, counts: Mapping[str, int]) -> Layout:
        """Lay out as ``Framework.layout``; what is not counted is implied: the scheduler on the first node, a server on each worker's."""
        slots = tuple(NodeSlot(role, i) for role in self.roles for i in range(counts.get(role, 0)))
        tasks = [Task(slot.role, slot.index, rank, _ports(slot.role)) for rank, slot in enumerate(slots)]
        if not counts.get("server"):
            tasks += [Task("server", i, i, _ports("server")) for i in range(counts["worker"])]
        if not counts.get("scheduler"):
            tasks.append(Task("scheduler", 0, 0, _ports("scheduler")))
        return Layout(slots, tuple(tasks))

    def environment(self, task: Task, table: Sequence[Place]) -> dict[str, str]:
        """Give the ``DMLC_*`` variables. Without DMLC_NODE_HOST ps-lite takes the address of any interface it finds."""
        scheduler = next(place for place in table if place.task.role == "scheduler")
        return {
            "DMLC_ROLE": task.role,
            "DMLC_PS_ROOT_URI": scheduler.address,
            "DMLC_PS_ROOT_PORT": str(scheduler.ports[0]),
            "DMLC_NUM_SERVER": str(sum(place.task.role == "server" for place in table)),
            "DMLC_NUM_WORKER": str(sum(place.task.role == "worker" for place in table)),
            "DMLC_NODE_HOST": next(place.address for place in table if place.task == task),
        }

    def essential(self, layout: Layout) -> tuple[str, ...]:
        """The workers end the job; servers and scheduler follow them."""
        return tuple(task.name for task in layout.tasks if task.role == "worker")

    def helper_command(self, task: Task) -> list[str] | None:
        """Scheduler and servers run no user program (see ``Framework.helper_command``)."""
        return None if task.role == "worker" else ["python3", "-c", "import mxnet"]


def _ports(role: str) -> int:
    """Servers choose their ports themselves; a worker gets one as the job's generic CML_MASTER_PORT."""
    return 0 if role == "server" else 1
