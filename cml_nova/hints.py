"""What was probably meant by a name that there is not. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: most names that a message lists
_LISTED = 40


def nearest(name: str, known: Iterable[str]) -> str:
    """Word a hint at the known name that was probably meant, and at what else there is."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    rest = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    listed = f"{', '.join(names[:_LISTED])}{rest}" or "none"
    return f"did you mean {near[0]!r}? Known are: {listed}" if near else f"known are: {listed}"
