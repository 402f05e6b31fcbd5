"""Where a command keeps logs and data of its stack."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def add_argument(command: argparse.ArgumentParser) -> None:
    """Add ``--directory``."""
    command.add_argument("--directory", type=_unused, metavar="DIRECTORY",
                         help="a new or empty one, where logs and data of the stack are kept; removed at the end if not given")


@contextmanager
def given_or_passing(directory: Path | None) -> Iterator[Path]:
    """Give the absolute path of the directory, or of one that is removed at the end."""
    place = directory or Path(tempfile.mkdtemp(prefix="cml-chaos-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place.resolve()
    finally:
        if not directory:
            shutil.rmtree(place, ignore_errors=True)


def _unused(text: str) -> Path:
    path = Path(text)
    if path.exists() and any(path.iterdir()):
        raise argparse.ArgumentTypeError(f"{path} is not empty; the records of two runs would be taken for one")
    return path
