"""What was probably meant by a name that there is not. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: most names that a message lists
_LISTED = 40


def likely(name: str, known: Iterable[str]) -> str | None:
    """Give the known name that was probably meant, if there is one."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def listing(kinds: str, known: Iterable[str]) -> str:
    """Word what there is.

    :param kinds: what the names are of, in the plural.
    """
    names = list(known)
    rest = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"known {kinds} are: {', '.join(names[:_LISTED]) or 'none'}{rest}"


def nearest(name: str, kinds: str, known: Iterable[str]) -> str:
    """Word a hint at the known name that was probably meant, and at what else there is; see ``listing``."""
    names = list(known)
    near, there = likely(name, names), listing(kinds, names)
    return f"did you mean {near!r}? {there[0].upper()}{there[1:]}" if near else there
