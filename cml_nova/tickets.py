"""What a user shows to a worker to be let through to a node: made by the API, read by any worker, nothing to anybody else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cml_nova import exception
from cml_nova.secrets import Vault

#: seconds for which a ticket opens tunnels; what was opened stays open
VALID_FOR = 60
_KIND = "tunnel"


@dataclass(frozen=True)
class Ticket:
    """To what it lets through: a port of a node, or its SSH server for one public key."""

    job_id: str
    rank: int
    port: int | None
    #: type and base64, nothing else
    public_key: str | None
    user_id: str
    request_id: str | None
    #: seconds since 1970 UTC, by the database's clock
    expires_at: float

    def seal(self, vault: Vault) -> str:
        """Give the text that the user gets."""
        return vault.seal({"kind": _KIND, **asdict(self)})

    @classmethod
    def open(cls, vault: Vault, token: str) -> Ticket:
        """Read such a text.

        :raises Unauthorized: it was not sealed by this service, or is something else that was.
        """
        try:
            document: Any = vault.open(token)
        except (exception.CMLError, UnicodeError):
            document = None
        if not isinstance(document, dict) or document.pop("kind", None) != _KIND:
            raise exception.Unauthorized("The token opens no tunnel; POST /v1/jobs/{id}/tunnels gives one.")
        return cls(**document)
