"""TensorFlow: what ``tf.distribute`` reads from ``TF_CONFIG``, and when such a job is done.

Two strategies start from the same variable:

- *MultiWorkerMirroredStrategy*: workers, one of which may be called chief; all of them train and all exit.
- *ParameterServerStrategy*: the chief coordinates; workers and ps serve until they are stopped.

TensorFlow binds a task's port on every address of its machine, whatever host ``TF_CONFIG`` names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cml_nova import exception
from cml_nova.frameworks.base import Framework, Layout, Place, Task


class TensorFlow(Framework):
    """Multi-worker training, or with ``ps`` parameter servers. An evaluator is stopped when the training is done."""

    name = "tensorflow"
    roles = {"worker": (1, None), "chief": (0, 1), "ps": (0, None), "evaluator": (0, 1)}

    def check(self, counts: Mapping[str, int]) -> None:
        """Refuse what no strategy of TensorFlow starts with (see ``Framework.check``)."""
        super().check(counts)
        if counts.get("ps", 0) and not counts.get("chief", 0):
            raise exception.BadRequest(
                f"roles.chief.count: parameter servers (roles.ps.count is {counts['ps']}) need exactly 1 chief to coordinate the "
                "training, not 0; add 'chief': {'count': 1}, or leave 'ps' out for multi-worker training.")

    def environment(self, task: Task, table: Sequence[Place]) -> dict[str, str]:
        """Give ``TF_CONFIG`` as TFConfigClusterResolver reads it; the evaluator is a task, but no member of the cluster."""
        cluster: dict[str, list[str]] = {}
        for place in sorted(table, key=lambda place: place.task.index):
            if place.task.role != "evaluator":
                cluster.setdefault(place.task.role, []).append(place.endpoint)
        variables = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": task.role, "index": task.index}})}
        if "ps" in cluster:
            # a lost peer is to be an error at once rather than a call that waits for its return
            variables["GRPC_FAIL_FAST"] = "use_caller"
        return variables

    def essential(self, layout: Layout) -> tuple[str, ...]:
        """With parameter servers the chief alone ends the job: the others wait in ``Server.join`` for ever."""
        roles = {"chief"} if any(task.role == "ps" for task in layout.tasks) else {"chief", "worker"}
        return tuple(task.name for task in layout.tasks if task.role in roles)
