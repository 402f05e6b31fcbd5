"""What is done with a job in each phase: observe, act, report. Every step may be run twice; there is no other recovery code."""

from collections.abc import Callable, Mapping

from cml_nova.states import Phase
from cml_nova.worker.crew import Crew
from cml_nova.worker.steps import bootstrap, collect, provision, teardown, train
from cml_nova.worker.work import Work

STEPS: Mapping[str, Callable[[Work, Crew], None]] = {
    Phase.PROVISIONING: provision.run,
    Phase.BOOTSTRAPPING: bootstrap.run,
    Phase.RUNNING: train.run,
    Phase.COLLECTING: collect.run,
    Phase.TEARDOWN: teardown.run,
}
