"""What nodes and jobs cost, by the prices that the operator has set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from cml_nova.api.services import services
from cml_nova.db import usage


def price(flavor: Mapping[str, Any]) -> float | None:
    """Price of an hour of a node with this flavor (``id`` and ``name``); None where there is none."""
    prices = services().conf.cost.prices
    found: float | None = prices.get(flavor["name"], prices.get(flavor["id"]))
    return found


def per_hour(flavors: Iterable[Mapping[str, Any]]) -> float | None:
    """Price of an hour of nodes with these flavors together; None where one has none."""
    prices = [price(flavor) for flavor in flavors]
    return None if None in prices else rounded(sum(p for p in prices if p is not None))


def rounded(amount: float) -> float:
    """Round an amount of money: a node that was there for some seconds counts, too."""
    return round(amount, 4)


def of_jobs(session: Session, jobs: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Represent what jobs cost, by id; those without a price are left out."""
    if not services().conf.cost.prices:
        return {}
    currency = services().conf.cost.currency
    return {job_id: {"amount": rounded(cost.amount), "currency": currency, "per_hour": rounded(cost.per_hour)}
            for job_id, cost in usage.costs(session, [job.id for job in jobs]).items()}
