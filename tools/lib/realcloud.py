"""The tests that need a real OpenStack: on one that a harness brings up on this machine, or on the one that the environment names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import bootstrap

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
#: seconds that the parts may take, many times what they do take
_LIMIT = {"up": 900, "image": 1200, "contract": 1200, "tests": 2400}


class Parts(Protocol):
    """See run_tests.Parts."""

    def run(self, name: str, command: list[str], env: Mapping[str, str] | None = None, fine: tuple[int, ...] = (0,),
            limit: float | None = None) -> bool: ...

    def fail(self, name: str, reason: str) -> None: ...


def run(parts: Parts, venv: bootstrap.Venv, pytest: list[str], fine: tuple[int, ...], harness: Path | None, state_dir: Path) -> None:
    """Run the contract tests and the tests of the service on a real cloud.

    :param harness: directory with the programs ``up``, ``status``, ``down`` and ``inject``; None for the cloud in the environment.
    """
    if harness is None:
        _run_tests(parts, pytest, fine, dict(os.environ))
        return
    with _cloud(parts, harness) as env:
        if env and _label(parts, venv, env) and _build_image(parts, state_dir, env):
            _run_tests(parts, pytest, fine, env)


def _run_tests(parts: Parts, pytest: list[str], fine: tuple[int, ...], env: dict[str, str]) -> None:
    if env.get("OS_CLOUD"):
        env.setdefault("CML_TEST_ADMIN_CLOUD", env["OS_CLOUD"])
    missing = [name for name in NEEDED if not env.get(name)]
    if missing:
        parts.fail("realcloud", f"no cloud: give --cloud-harness DIR, or set {', '.join(missing)} (tests/realcloud/conftest.py says what "
                                "each is)")
        return
    contract = {other: env[name] for name, other in {**NEEDED, **_ALSO}.items() if env.get(name)}
    contract = {"CML_CONTRACT_SCARCE_COUNT": "5", **contract, **{k: v for k, v in env.items() if k.startswith("CML_CONTRACT_")}}
    if "CML_CONTRACT_INNER_NETWORK" not in contract:
        contract.pop("CML_CONTRACT_FLOATING_NETWORK", None)
    parts.run("realcloud: contract", [*pytest, "tests/contract"], {**env, **contract}, fine, _LIMIT["contract"])
    parts.run("realcloud: tests", [*pytest, "tests/realcloud"], env, fine, _LIMIT["tests"])


@contextmanager
def _cloud(parts: Parts, harness: Path) -> Iterator[dict[str, str]]:
    """Bring the cloud up; give what the environment has to say of it, or nothing if it does not come up. One that was up stays so."""
    status = subprocess.run([str(harness / "status")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    ours = status.returncode != 0
    try:
        up = parts.run("realcloud: up", [str(harness / "up")], {"CPU_MODEL": _CPU_MODEL}, limit=_LIMIT["up"])
        yield _environment(harness, ours) if up else {}
    finally:
        if ours:
            parts.run("realcloud: down", [str(harness / "down")], limit=300)


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


def _label(parts: Parts, venv: bootstrap.Venv, env: dict[str, str]) -> bool:
    """Tell the service what is in the images that the harness has."""
    def label(image: str, version: str) -> bool:
        labels = {**_LABELS, "cml_framework_version": version}
        properties = [part for name, value in labels.items() for part in ("--property", f"{name}={value}")]
        return parts.run(f"realcloud: label {image}", [venv.command("openstack"), "image", "set", *properties, image], env, limit=120)

    return all(label(image, version) for image, version in _PLAIN_IMAGES.items())


def _build_image(parts: Parts, state_dir: Path, env: dict[str, str]) -> bool:
    command = [str(bootstrap.REPOSITORY / "tools" / "build-image"), "mxnet", "--name", _TRAINING_IMAGE, "--upload", "--os-cloud", "admin",
               "--visibility", "public", "--boot", "kernel", "--state-dir", str(state_dir)]
    return parts.run("realcloud: framework image", command, env, limit=_LIMIT["image"])
