"""The setup command of a job, which is run once a node."""

from __future__ import annotations

import time
from functools import partial

from cml_nova import exception
from cml_nova.remote import Leave, Machine, ProcessSpec, ProcessState
from cml_nova.states import Cause
from cml_nova.worker.beside import beside
from cml_nova.worker.crew import Crew
from cml_nova.worker.logs import LogSaver
from cml_nova.worker.processes import SETUP_ATTEMPT, user_environment, working_directory
from cml_nova.worker.readiness import Lost, NotReady, give_up, look, raise_first
from cml_nova.worker.silence import Silence
from cml_nova.worker.work import Work


class Setup:
    """The setup command, run once a node; its log is attempt 0."""

    def __init__(self, work: Work, crew: Crew, silence: Silence) -> None:
        self._work = work
        self._crew = crew
        self._silence = silence
        self._saver = LogSaver(work.tools.storage, work.job.id)
        self._tasks = [f"{slot.role}:{slot.index}" for slot in work.job.layout.nodes]
        self._states: dict[int, ProcessState] = {}
        self._problem: Lost | NotReady | None = None
        self._ended = Leave()
        self._began = time.monotonic()

    def run(self) -> None:
        """Bring it to its end on all nodes. :raises Lost, NotReady: it can't be, or it failed."""
        try:
            results = beside("setup", lambda: self._crew.each(self._on_node, range(len(self._tasks))), self._look)
        finally:
            self._ended.set()  # nobody goes on with it when the job is another's
        if self._problem:
            raise self._problem
        if self._work.ended_early():
            return
        raise_first(self._work, results)
        self._judge()

    def _on_node(self, rank: int, machine: Machine) -> None:
        try:
            self._silence.insist(rank, machine, partial(self._follow, rank), self._ended)
        finally:
            self._silence.end(rank)

    def _follow(self, rank: int, machine: Machine) -> None:
        """Start the command where it was not, and save its log until it has ended."""
        work, task = self._work, self._tasks[rank]
        self._silence.begin(rank)
        for state in machine.processes():
            self._take_state(rank, state)
        if not self._is_over(rank):
            machine.start(ProcessSpec(attempt=SETUP_ATTEMPT, task=task, command=work.job.spec["setup"], env=user_environment(work),
                                      cwd=working_directory(work)))
        # The command may have ended while no worker was there to save its log.
        saved = self._saver.resume(SETUP_ATTEMPT, task)
        if not self._is_over(rank) or saved < self._states[rank].log_size:
            machine.follow({(SETUP_ATTEMPT, task): saved}, on_log=self._saver.add, on_state=partial(self._take_state, rank),
                           stop=self._ended)
        if self._ended.is_set():
            return
        if rank not in self._states:
            raise exception.RemoteError("it does not say what has become of the setup command")
        self._saver.finish(SETUP_ATTEMPT, task)

    def _take_state(self, rank: int, state: ProcessState) -> None:
        if (state.attempt, state.task) != (SETUP_ATTEMPT, self._tasks[rank]):
            return
        if rank not in self._states:
            self._silence.end(rank)  # what it took until the command ran is not the command's time
            self._silence.begin(rank)
        self._states[rank] = state

    def _is_over(self, rank: int) -> bool:
        return rank in self._states and self._states[rank].state in ("EXITED", "STOPPED")

    def _look(self) -> None:
        if self._work.ended_early():
            self._ended.set()
        if self._ended.is_set():
            return
        try:
            look(self._work, self._silence, self._began)
            self._check_time()
        except (Lost, NotReady) as problem:
            self._problem = problem
            self._ended.set()
            for rank in problem.nodes if isinstance(problem, Lost) else ():
                self._crew.drop(rank)  # nobody waits for its next word any longer

    def _check_time(self) -> None:
        limit: int = self._work.conf.conductor.bootstrap_timeout
        late = [rank for rank, seconds in self._silence.waited().items() if seconds > limit]
        for rank in late:
            if rank in self._states:
                raise NotReady(Cause.SETUP_ERROR, f"The setup command did not end within {limit} s on {self._tasks[rank]} (its log is "
                                "attempt 0).", failed_task=self._tasks[rank])
        if late:
            give_up(self._work, {rank: f"it answers, but did not start the setup command within {limit} s" for rank in late},
                     Cause.INFRA_LOST)

    def _judge(self) -> None:
        for rank, state in sorted(self._states.items()):
            if state.state != "LOST" and state.exit_code != 0:
                tail = "\n".join(self._saver.last_lines(SETUP_ATTEMPT, self._tasks[rank], 5))
                raise NotReady(
                    Cause.SETUP_ERROR, f"The setup command failed on {self._tasks[rank]} with exit code {state.exit_code} (its log is "
                    f"attempt 0). Last lines:\n{tail}", exit_code=state.exit_code, failed_task=self._tasks[rank])
        # How far it came can't be told, so it begins anew, on a machine on which nothing was done yet.
        lost = {rank: f"its setup was cut off: {state.reason}" for rank, state in self._states.items() if state.state == "LOST"}
        if lost:
            raise Lost(lost)
