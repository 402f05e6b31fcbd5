"""How a program that can't start says so."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from oslo_config import cfg

from cml_nova import exception


@contextmanager
def explained(prog: str, status: int = 1) -> Iterator[None]:
    """End the program where its configuration does not let it start: with one line on standard error, in place of a trace.

    :param status: what it exits with then.
    :raises SystemExit: it does not.
    """
    try:
        yield
    except exception.CMLError as error:
        reason = error.message
    except cfg.Error as error:
        reason = str(error)
    else:
        return
    # Libraries say what they have to say first, and go on with advice to programmers.
    sys.stderr.write(f"{prog} can't start: {reason.strip().splitlines()[0]}\n")
    sys.exit(status)
