"""What users have on their laptops, against the service: each test runs with the oldest client packages that are supported (Debian 12's,
of /usr/bin/python3) and with the newest (those of the environment that the tests run in).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.functional.conftest import gate, session_stack, stack  # noqa: F401 -- fixtures
from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.reports import pytest_runtest_makereport  # noqa: F401 -- a hook
from tests.harness.stack import Stack

REPOSITORY = Path(__file__).parents[2]
#: which client packages the tests run with: those of Debian 12, the newest; CML_TEST_CLIENTS names some of them
SIDES = os.environ.get("CML_TEST_CLIENTS", "floor ceiling").split()


@dataclass(frozen=True)
class Laptop:
    """A Python with client packages, and the clouds.yaml of a cloud."""

    python: str
    clouds_yaml: Path

    @property
    def env(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        return {**env, "OS_CLIENT_CONFIG_FILE": str(self.clouds_yaml), "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, script: Path, *args: str, directory: Path | None = None) -> subprocess.Popen[str]:
        """Start a script as a user of the cloud, in a directory."""
        return subprocess.Popen([self.python, str(script), *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, cwd=directory, env={**self.env, "OS_CLOUD": "local"})

    def run(self, script: Path, *args: str, directory: Path | None = None, timeout: float = 240) -> str:
        """Run a script to its end; give what it prints. :raises AssertionError: it failed."""
        with self.start(script, *args, directory=directory) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            finally:
                process.kill()
        assert process.returncode == 0, f"{script.name} ended with {process.returncode}:\n{out}\n{err}"
        return out


@pytest.fixture(scope="session", params=SIDES)
def python(request: pytest.FixtureRequest) -> str:
    """The Python of a laptop."""
    if request.param == "ceiling":
        return sys.executable
    probe = subprocess.run(["/usr/bin/python3", "-c", "import openstack, openstackclient, pathspec, websocket"], capture_output=True,
                           text=True, check=False)
    assert probe.returncode == 0, ("Debian's own client packages are missing. Install them: "
                                   f"apt-get install python3-openstackclient python3-pathspec python3-websocket\n{probe.stderr}")
    return "/usr/bin/python3"


@pytest.fixture
def laptop(python: str, cloud: LocalCloud) -> Laptop:
    return Laptop(python, cloud.directory / "clouds.yaml")


@pytest.fixture
def cloud(stack: Stack) -> Iterator[LocalCloud]:  # noqa: F811 -- the fixture
    yield stack.cloud


@pytest.fixture
def client(stack: Stack) -> Client:  # noqa: F811 -- the fixture
    """Plain HTTP, to see what the service says for itself."""
    return stack.demo
