"""What opens a tunnel, and what does not."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from cml_nova import exception
from cml_nova.secrets import Vault
from cml_nova.tickets import Ticket

TICKET = Ticket("job", 1, 6006, None, "ann", "req-1", 1000.5)


def vault() -> Vault:
    return Vault([Fernet.generate_key().decode()])


def test_a_ticket_is_read_as_it_was_made() -> None:
    own = vault()
    token = TICKET.seal(own)
    assert Ticket.open(own, token) == TICKET
    assert "6006" not in token and "ann" not in token


@pytest.mark.parametrize("token", ["", "nonsense", "gAAAAA", "tökén"])
def test_what_was_not_sealed_is_none(token: str) -> None:
    with pytest.raises(exception.Unauthorized):
        Ticket.open(vault(), token)


def test_one_of_another_service_is_none() -> None:
    with pytest.raises(exception.Unauthorized):
        Ticket.open(vault(), TICKET.seal(vault()))


@pytest.mark.parametrize("other", [{"ssh": "key", "host": "key", "secrets": {}}, {"kind": "other"}, [1], "text"])
def test_something_else_that_is_sealed_is_none(other: object) -> None:
    own = vault()
    with pytest.raises(exception.Unauthorized):
        Ticket.open(own, own.seal(other))


def test_a_ticket_that_was_changed_is_none() -> None:
    own = vault()
    token = TICKET.seal(own)
    middle = len(token) // 2
    forged = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1:]
    with pytest.raises(exception.Unauthorized):
        Ticket.open(own, forged)
