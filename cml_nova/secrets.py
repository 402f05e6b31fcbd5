"""Secrets at rest: sealed with MultiFernet, so that keys can be rotated by prepending a new one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from oslo_config import cfg

from cml_nova import exception


class Vault:
    """Seals and opens JSON documents.

    :param keys: url-safe base64 Fernet keys, one at least; the first one seals, all of them open.
    :raises ValueError: one of them is no such key.
    """

    def __init__(self, keys: list[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Vault:
        """Read the keys, one a line, newest first, from ``[secrets] key_file``.

        :raises ConfigurationError: there is no such file, it can't be read, or it holds no keys.
        """
        path = Path(conf.secrets.key_file)
        try:
            return cls(path.read_text().split())
        except FileNotFoundError:
            raise exception.ConfigurationError(
                f"[secrets] key_file {path} does not exist; cml-nova-manage secrets create makes one") from None
        except OSError as error:
            raise exception.ConfigurationError(f"[secrets] key_file {path} can't be read: {error.strerror}") from error
        except ValueError as error:
            raise exception.ConfigurationError(f"[secrets] key_file {path} has to hold Fernet keys, one a line: {error}") from error

    def seal(self, document: Any) -> str:
        """Give the sealed text of a JSON-serialisable document."""
        return self._fernet.encrypt(json.dumps(document).encode()).decode()

    def open(self, sealed: str) -> Any:
        """Give back what ``seal`` was given.

        :raises CMLError: none of the keys opens it.
        """
        try:
            return json.loads(self._fernet.decrypt(sealed.encode()))
        except InvalidToken:
            raise exception.CMLError("a sealed secret can't be opened: [secrets] key_file lacks its key") from None


def create_key_file(path: Path) -> bool:
    """Make a key file that only its owner reads; leave an existing one alone and return False.

    :raises ConfigurationError: it can't be made there.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise exception.ConfigurationError(f"[secrets] key_file {path} can't be made: {error.strerror}") from error
    with os.fdopen(fd, "w") as file:
        file.write(Fernet.generate_key().decode() + "\n")
    return True
