"""What the processes of a job are started with."""

from __future__ import annotations

from cml_nova.frameworks import Place
from cml_nova.frameworks.base import common_environment
from cml_nova.remote import ProcessSpec
from cml_nova.worker.work import Work

#: setup runs before the first attempt
SETUP_ATTEMPT = 0


def user_environment(work: Work) -> dict[str, str]:
    """The variables that the user set, open ones and secret ones."""
    return {**work.job.spec.get("env", {}), **work.secrets().get("secrets", {})}


def working_directory(work: Work) -> str:
    """Where commands run: in the training code if there is some, else in the job's own directory."""
    return "code" if work.job.spec.get("source") else ""


def process_specs(work: Work) -> dict[str, ProcessSpec]:
    """Give what each task of the current attempt is started with, by task name."""
    job, framework, layout = work.job, work.job.framework, work.job.layout
    rows = {row["task"]: row for row in job.runtime["table"]}
    table = [Place(t, rows[t.name]["address"], tuple(rows[t.name]["ports"])) for t in layout.tasks]
    specs = {}
    for task in layout.tasks:
        of_role = job.spec["roles"].get(task.role, {}).get("command")
        command = of_role or framework.helper_command(task) or job.spec["command"]
        environment = {
            **user_environment(work),
            **common_environment(job.id, job.attempt, layout, task, table),
            **framework.environment(task, table),
        }
        specs[task.name] = ProcessSpec(attempt=job.attempt, task=task.name, command=command, env=environment,
                                       ports=rows[task.name]["ports"], cwd=working_directory(work))
    return specs
