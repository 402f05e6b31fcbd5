"""Something that goes wrong in a campaign: it strikes, it heals, and nobody else has what it holds meanwhile."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from random import Random

from chaos_world import World


class Fault(abc.ABC):
    """Something that goes wrong.

    :param draw: for its own choices: whom it strikes of those that are there.
    """

    def __init__(self, world: World, draw: Random) -> None:
        self.world = world
        self.draw = draw
        self.claimed: list[str] = []
        #: whom it struck, for the record
        self.victim = ""

    @abc.abstractmethod
    def strike(self) -> bool:
        """Do it; False if there is nothing to do it to now."""

    def heal(self) -> bool:
        """Make it good again; False if it turns out that it struck nobody."""
        return True

    def release(self) -> None:
        """Let other faults have what this one held."""
        self.world.unclaim(*self.claimed)
        self.claimed = []

    def claim_one(self, names: Sequence[str]) -> str:
        """Take one of some things that no other fault holds; empty if they are all taken."""
        for name in self.draw.sample(list(names), len(names)):
            if self.world.claim(name):
                self.claimed.append(name)
                return name
        return ""
