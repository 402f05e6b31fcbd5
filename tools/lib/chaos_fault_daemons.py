"""Faults of the service's daemons: killed, standing still, asked to end, with a clock that is wrong."""

from __future__ import annotations

import abc
import signal

from chaos_fault import Fault

from tests.harness.process import Daemon


class OfDaemon(Fault):
    """A fault of one daemon."""

    def strike(self) -> bool:
        self.victim = self.claim_one(list(self.world.daemons))
        if not self.victim or not self.daemon.alive:
            return False
        self.begin()
        return True

    @property
    def daemon(self) -> Daemon:
        return self.world.daemons[self.victim]

    @abc.abstractmethod
    def begin(self) -> None:
        """Do it to the daemon."""


class Kill(OfDaemon):
    """SIGKILL; it is started again later."""

    def begin(self) -> None:
        self.daemon.kill()

    def heal(self) -> bool:
        self.daemon.start()
        return True


class Freeze(OfDaemon):
    """SIGSTOP, for longer than a lease at times; then it goes on as if nothing had been."""

    def begin(self) -> None:
        self.world.send(self.daemon, signal.SIGSTOP)

    def heal(self) -> bool:
        self.world.send(self.daemon, signal.SIGCONT)
        return True


class Drain(OfDaemon):
    """SIGTERM; it has to end in time, and is started again."""

    def begin(self) -> None:
        self.world.end(self.daemon)

    def heal(self) -> bool:
        self.daemon.start()
        return True


class RollingRestart(Fault):
    """Every daemon is asked to end, and started again, one after the other, as in an upgrade."""

    def strike(self) -> bool:
        names = list(self.world.daemons)
        if not self.world.claim(*names):
            return False
        self.claimed = names
        for daemon in self.world.daemons.values():
            if daemon.alive:
                self.world.end(daemon)
            daemon.start()
        return True


class ClockIsWrong(Fault):
    """A daemon's wall clock jumps by hours, and back later. Other faults may strike the daemon meanwhile."""

    def strike(self) -> bool:
        claimed = self.claim_one([f"clock of {name}" for name in self.world.service.clocks])
        self.victim = claimed.removeprefix("clock of ")
        if self.victim:
            self.world.service.clocks[self.victim].set(self.draw.choice([-1, 1]) * self.draw.uniform(60, 7200))
        return bool(self.victim)

    def heal(self) -> bool:
        self.world.service.clocks[self.victim].set(0)
        return True
