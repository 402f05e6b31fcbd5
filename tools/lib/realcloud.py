"""The tests that need a real OpenStack: on one that a harness brings up on this machine, or on the one that the environment names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import bootstrap
from parts import Part, Parts, Queue, Tests

_NAME = "realcloud"
#: what tests/realcloud can't do without (its conftest says what each is), and as what tests/contract knows it
NEEDED = {
    "CML_TEST_ADMIN_CLOUD": "CML_CONTRACT_ADMIN_CLOUD",
    "CML_TEST_USER_CLOUD": "CML_CONTRACT_CLOUD",
    "CML_TEST_OTHER_CLOUD": "CML_CONTRACT_OTHER_CLOUD",
    "CML_TEST_IMAGE": "CML_CONTRACT_IMAGE",
    "CML_TEST_FLAVOR": "CML_CONTRACT_FLAVOR",
    "CML_TEST_NETWORK": "CML_CONTRACT_NETWORK",
    "CML_TEST_SCARCE_FLAVOR": "CML_CONTRACT_SCARCE_FLAVOR",
}
_ALSO = {"CML_TEST_EXTERNAL_NETWORK": "CML_CONTRACT_FLOATING_NETWORK"}
#: images of the harness that trainings run on as they are, without a framework of ours
_PLAIN_IMAGES = {"debian-12-fast": "3.11", "debian-12-cloudinit": "3.11-cloudinit"}
_LABELS = {"cml_framework": "custom", "cml_ssh_user": "debian"}
_TRAINING_IMAGE = "cml-mxnet"
#: of the guests: MXNet's operators end by an illegal instruction on one without AVX
_CPU_MODEL = "Haswell-noTSX"
#: seconds that the parts may take: several times what they take where nothing runs beside
_LIMIT = {"up": 900, "image": 1200, "contract": 1200, "tests": 3600}


def named(parts: Parts, tests: Tests) -> Queue:
    """Give the tests on the cloud that the environment names, which is used as it is."""
    env = dict(os.environ)
    if env.get("OS_CLOUD"):
        env.setdefault("CML_TEST_ADMIN_CLOUD", env["OS_CLOUD"])
    missing = [name for name in NEEDED if not env.get(name)]
    if missing:
        parts.fail(_NAME, f"no cloud: give --cloud-harness DIR, or set {', '.join(missing)} (tests/realcloud/conftest.py says what each "
                          "is)")
        return {}
    return _tests(tests, env)


@contextmanager
def brought_up(parts: Parts, venv: bootstrap.Venv, tests: Tests, harness: Path, state_dir: Path) -> Iterator[Queue]:
    """Give the tests on a cloud, and before them what brings it up. It is stopped at the end; one that was up stays so.

    :param harness: directory with the programs ``up``, ``status``, ``down`` and ``inject``.
    """
    status = subprocess.run([str(harness / "status")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    ours = status.returncode != 0
    env = _environment(harness, ours)
    steps = _steps(venv, harness, state_dir, env)
    try:
        yield steps | _tests(tests, env, needs=list(steps)[-1])
    finally:
        if ours:
            parts.run(f"{_NAME}: down", Part([str(harness / "down")], limit=300))


def _tests(tests: Tests, env: Mapping[str, str], needs: str | None = None) -> Queue:
    """Give the contract tests and the tests of the service."""
    contract = {other: env[name] for name, other in {**NEEDED, **_ALSO}.items() if env.get(name)}
    contract = {"CML_CONTRACT_SCARCE_COUNT": "5", **contract, **{k: v for k, v in env.items() if k.startswith("CML_CONTRACT_")}}
    if "CML_CONTRACT_INNER_NETWORK" not in contract:
        contract.pop("CML_CONTRACT_FLOATING_NETWORK", None)
    return {f"{_NAME}: contract": tests.part("tests/contract", {**env, **contract}, limit=_LIMIT["contract"], needs=needs),
            f"{_NAME}: tests": tests.part("tests/realcloud", env, limit=_LIMIT["tests"], needs=needs)}


def _environment(harness: Path, ours: bool) -> dict[str, str]:
    state = Path(os.environ.get("REALCLOUD_DIR", "/var/tmp/realcloud"))
    return {
        "OS_CLIENT_CONFIG_FILE": str(state / "clouds.yaml"), "OS_CLOUD": "admin",
        "CML_TEST_ADMIN_CLOUD": "admin", "CML_TEST_USER_CLOUD": "alpha", "CML_TEST_OTHER_CLOUD": "beta",
        "CML_TEST_IMAGE": "debian-12-fast", "CML_TEST_FLAVOR": "m1.small", "CML_TEST_NETWORK": "lan",
        "CML_TEST_SYSTEMD_IMAGE": "debian-12-cloudinit", "CML_TEST_SYSTEMD_FLAVOR": "m1.small",
        "CML_TEST_TRAINING_IMAGE": _TRAINING_IMAGE, "CML_TEST_TRAINING_FLAVOR": "m1.medium",
        "CML_TEST_SCARCE_FLAVOR": "g1.small", "CML_TEST_SCARCE_LARGE_FLAVOR": "g1.medium",
        "CML_TEST_EXTERNAL_NETWORK": "public", "CML_CONTRACT_INNER_NETWORK": "private-alpha",
        "CML_TEST_SSH_SOURCE": "172.24.4.0/23",  # of both networks that this machine is on
        "CML_TEST_INJECT": str(harness / "inject"), "CML_TEST_CLOUD_LOGS": str(state / "log"),
        **({"CML_TEST_WHOLE_CLOUD": "1"} if ours else {}),
    }


def _steps(venv: bootstrap.Venv, harness: Path, state_dir: Path, env: Mapping[str, str]) -> Queue:
    """Give what makes the cloud fit for the tests: it is brought up, told what is in its images, and given one with a framework."""
    last = f"{_NAME}: up"
    steps = {last: Part([str(harness / "up")], {"CPU_MODEL": _CPU_MODEL}, limit=_LIMIT["up"])}
    for image, version in _PLAIN_IMAGES.items():
        labels = {**_LABELS, "cml_framework_version": version}
        properties = [word for name, value in labels.items() for word in ("--property", f"{name}={value}")]
        command = [venv.command("openstack"), "image", "set", *properties, image]
        steps[f"{_NAME}: label {image}"] = Part(command, env, limit=120, needs=last)
        last = f"{_NAME}: label {image}"
    command = [str(bootstrap.REPOSITORY / "tools" / "build-image"), "mxnet", "--name", _TRAINING_IMAGE, "--upload", "--os-cloud", "admin",
               "--visibility", "public", "--boot", "kernel", "--state-dir", str(state_dir)]
    steps[f"{_NAME}: framework image"] = Part(command, env, limit=_LIMIT["image"], needs=last)
    return steps
