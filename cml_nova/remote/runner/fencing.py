"""Which generation of the job's lease a change on the node is made in: a worker that has lost the job may only look."""

import fcntl
import os

from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.files import overwrite, read_text


def highest_generation(root: str) -> int:
    text = read_text(os.path.join(root, "generation")).strip()
    return int(text) if text.isdigit() else 0


class Change:
    """A context in which a session changes something on the node: one at a time, and none of a worker that has lost the job.

    :param generation: in which the session's worker holds the job.
    :raises Refused: on entry, a session of a higher generation has been here.
    """

    def __init__(self, root: str, generation: int) -> None:
        self.root, self.generation = root, generation

    def __enter__(self) -> "Change":
        self.lock = open(os.path.join(self.root, "start.lock"), "wb")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        highest = highest_generation(self.root)
        if highest > self.generation:
            self.lock.close()
            raise Refused("the job is another worker's: generation %d of its lease is over, generation %d has begun" % (
                self.generation, highest))
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.close()

    def begin(self) -> None:
        """Let no session of a lower generation change anything any more."""
        if self.generation > highest_generation(self.root):
            overwrite(os.path.join(self.root, "generation"), b"%d" % self.generation, 20)
