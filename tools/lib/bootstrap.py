"""Sets up what the commands under tools/ run in: a virtual environment with this project installed editable.

Only the standard library, and a syntax that any Python 3.6 reads: the Python that starts a tool may be too old to run the
project and is then only used to find a better one.

    import bootstrap
    venv = bootstrap.prepare(["localcloud", "cli"], state_dir)
    venv.run("cml-nova-localcloud", "image", "list")
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13")
_GRACE = 20  # seconds that a process has to end in
_PROBE = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


class BootstrapError(Exception):
    """The environment can't be set up; the message says why and what to do."""


class Venv:
    """A virtual environment that is ready for use.

    ``path`` is its directory, ``python`` its interpreter.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.python = self.path / "bin" / "python"

    def command(self, name):
        """Give the path of a command that the environment has, as text."""
        return str(self.path / "bin" / name)

    def environ(self):
        """Give a copy of this process's environment with the virtual environment's commands first in PATH."""
        env = dict(os.environ, VIRTUAL_ENV=str(self.path))
        env["PATH"] = str(self.path / "bin") + os.pathsep + env.get("PATH", os.defpath)
        for name in ("PYTHONPATH", "PYTHONHOME"):
            env.pop(name, None)
        return env

    def run(self, name, *args):
        """Run one of its commands and wait. :raises BootstrapError: it ended with an error."""
        code = call([self.command(name)] + [str(a) for a in args], env=self.environ(), cwd=str(REPOSITORY))
        if code:
            raise BootstrapError(f"{name} {' '.join(str(a) for a in args)} ended with code {code}")

    def replace_process(self, script, args):
        """Go on as ``script`` under this environment's Python; never returns."""
        sys.stdout.flush()
        os.execve(str(self.python), [str(self.python), str(script), *args], self.environ())


def launch(name, script, extras, argv):
    """Go on as ``script`` of this directory in the environment of the state directory that ``argv`` names; never returns.

    :param name: of the tool, for its messages.
    :param extras: see ``prepare``.
    """
    state_dir = default_state_dir()
    for i, arg in enumerate(argv):
        if arg == "--state-dir" and i + 1 < len(argv):
            state_dir = Path(argv[i + 1])
        elif arg.startswith("--state-dir="):
            state_dir = Path(arg.partition("=")[2])
    run_tool(name, lambda argv: prepare(extras, state_dir).replace_process(Path(__file__).with_name(script), argv), argv)


def run_tool(name, main, argv):
    """Run a tool, and end with the exit status that its ``main`` gives.

    TERM is as Ctrl-C: KeyboardInterrupt is raised, so that what was started is ended in order. The status is 128 and the number of
    the signal then. A second signal changes nothing.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell leaves SIGINT for what it starts in the background
            signal.signal(number, _interruption.come)
    try:
        sys.exit(main(argv))
    except KeyboardInterrupt:
        sys.exit(128 + (_interruption.number or signal.SIGINT))
    except BootstrapError as error:
        sys.exit(f"{name}: {error}")


class _Interruption:
    """The signal that has told us to end, if one has, and whether that may be known yet."""

    number = 0
    held = 0
    told = False

    def come(self, number, frame):
        if not self.number:
            self.number = number
            self.tell()

    def tell(self):
        if self.number and not self.held and not self.told:
            self.told = True
            raise KeyboardInterrupt


_interruption = _Interruption()


@contextlib.contextmanager
def whole():
    """Have an interruption come after the block: in the midst of it nobody might know what was started."""
    _interruption.held += 1
    try:
        yield
    finally:
        _interruption.held -= 1
    _interruption.tell()


def call(command, **how):
    """Run a command as ``subprocess.call`` does; when we are interrupted, it ends with all that it has started."""
    with started(command, **how) as process:
        return process.wait()


@contextlib.contextmanager
def started(command, **how):
    """Give a process that leads a session of its own. When the block raises, it and whatever runs in the session are ended.

    :param how: as ``subprocess.Popen`` takes it.
    """
    process = None
    try:
        with whole():
            process = subprocess.Popen(command, start_new_session=True, **how)
        yield process
    except BaseException:
        if process is None:
            raise
        _signal_session(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        _signal_session(process, signal.SIGKILL)
        process.wait()
        raise


def _signal_session(process, number):
    with contextlib.suppress(ProcessLookupError, PermissionError):  # what sudo has started can't be told, but be waited for
        os.killpg(process.pid, number)


def default_state_dir():
    """Give the directory that everything made by the tools lives in, unless the user names another."""
    return REPOSITORY / ".state"


def say(text):
    """Print one line of progress at once."""
    print(text, flush=True)


def prepare(extras, state_dir=None):
    """Make or update ``<state_dir>/venv`` with the project and the named extras; give the ``Venv``.

    Does nothing when nothing that matters has changed since the last time: the requirements, the Python, the repository's place.
    What was installed for one tool stays when another asks for less. ``venv`` may be a link to another state directory's.

    :param extras: names from [project.optional-dependencies], besides "server", which all tools need.
    :raises BootstrapError: no fit Python, or pip failed.
    """
    state_dir = Path(state_dir or default_state_dir()).resolve()
    state_dir.mkdir(parents=True, exist_ok=True)
    path = (state_dir / "venv").resolve()
    with _locked(path.with_suffix(".lock")):
        return _prepare({"server"} | set(extras), Venv(path), state_dir)


def _prepare(extras, venv, state_dir):
    stamp = venv.path / "cml_nova.json"
    found = _read_stamp(stamp, venv)
    digest = _digest(venv.path)
    if found:
        if found["digest"] == digest and extras <= set(found["extras"]):
            return venv
        extras |= set(found["extras"])
    else:
        python = find_python()
        say(f"Making a virtual environment in {venv.path} with {python}")
        shutil.rmtree(str(venv.path), ignore_errors=True)
        _run([python, "-m", "venv", str(venv.path)], state_dir / "pip.log", "the virtual environment could not be made")
    say(f"Installing the project and its dependencies ({', '.join(sorted(extras))}); this takes a minute or two the first time")
    target = f"{REPOSITORY}[{','.join(sorted(extras))}]"
    _run([str(venv.python), "-m", "pip", "install", "--no-input", "--progress-bar=off", "--editable", target], state_dir / "pip.log",
         "pip could not install the project")
    stamp.write_text(json.dumps({"digest": digest, "extras": sorted(extras)}))
    return venv


def find_python():
    """Find a Python that runs the project and can make virtual environments: this one, else one in PATH or of pyenv.

    ``CML_PYTHON`` in the environment names one outright.

    :raises BootstrapError: there is none.
    """
    if os.environ.get("CML_PYTHON"):
        candidates = [os.environ["CML_PYTHON"]]
    else:
        candidates = [sys.executable]
        candidates += [path for path in (shutil.which("python" + v) for v in VERSIONS) if path]
        for version in VERSIONS:
            candidates += sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")))
    for candidate in candidates:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            output = subprocess.check_output([candidate, "-c", _PROBE], stderr=subprocess.DEVNULL)
            if output.decode().strip() in VERSIONS:
                return candidate
    raise BootstrapError(
        f"No Python {VERSIONS[0]} to {VERSIONS[-1]} with the venv module was found (looked at: {', '.join(candidates)}). "
        "Install one (Debian: apt-get install python3 python3-venv) or name one: CML_PYTHON=/path/to/python.")


def _digest(path):
    """Hash everything that decides what is installed, and the places that an editable installation has written into it."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "setup.cfg"):
        digest.update((REPOSITORY / name).read_bytes())
    digest.update(str(REPOSITORY).encode() + b"\0" + str(path).encode())
    return digest.hexdigest()


def _read_stamp(stamp, venv):
    """Give what was installed, or None when the environment has to be made anew."""
    try:
        found = json.loads(stamp.read_text())
        version = subprocess.check_output([str(venv.python), "-c", _PROBE], stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return found if version in VERSIONS and "digest" in found and "extras" in found else None


def _run(command, log_path, failure):
    """Run a command, its output to a log file and a line now and then to the terminal."""
    began = shown = time.monotonic()
    lines = []
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    with open(str(log_path), "a") as log:
        with started(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, cwd=str(REPOSITORY),
                     env=env) as process:
            for line in process.stdout:
                log.write(line)
                log.flush()
                lines = [*lines[-14:], line]
                if time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    say(f"  {shown - began:3.0f} s  {line.strip()[:100]}")
            code = process.wait()
    if code:
        raise BootstrapError(f"{failure} (code {code}). The whole output is in {log_path}; its end:\n{''.join(lines)}")


@contextlib.contextmanager
def _locked(path):
    """Let only one tool at a time change the environment."""
    with open(str(path), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"Waiting for another command that is setting up {path.parent}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
