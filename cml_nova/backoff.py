"""Pauses that grow from one try to the next."""

from __future__ import annotations

import random


def growing_pause(tries: int, least: float, most: float) -> float:
    """Give seconds until the next try; those who failed together do not come back together.

    :param tries: how many there were before the one that failed.
    :param least: of the first pause, in seconds; it doubles with each try, up to ``most``. What is given is half to all of that.
    """
    return min(most, least * 2 ** min(tries, 16)) * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret
