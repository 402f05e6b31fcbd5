"""The state of the cloud: documents by kind and id, all in memory, each change also in an SQLite file.

Documents are never changed in place: ``update`` puts a changed copy. So a reader may keep what it was given, and a
transaction that fails is undone by putting the old documents back.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

Document = dict[str, Any]


class Store:
    """Documents of the cloud.

    ``with store:`` is a transaction under the one lock of the cloud: all of its changes are on disk when it ends, or
    none when it raises. The changing methods may be called within a transaction only.

    :param path: the SQLite file; made when it does not exist. None keeps nothing on disk.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._undo: list[tuple[str, str, Document | None]] = []
        self._documents: dict[str, dict[str, Document]] = {}
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
        # A killed process loses nothing with these two; a crash of the machine may lose the last moments.
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS documents (kind TEXT, id TEXT, body TEXT, PRIMARY KEY (kind, id))")
        for kind, key, body in self._db.execute("SELECT kind, id, body FROM documents ORDER BY rowid"):
            self._documents.setdefault(kind, {})[key] = json.loads(body)

    def __enter__(self) -> Store:
        self._lock.acquire()
        self._depth += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._depth -= 1
            if self._depth == 0:
                try:
                    if kind is None:
                        self._write()
                    else:
                        self._roll_back()
                finally:
                    self._undo.clear()
        finally:
            self._lock.release()

    def _write(self) -> None:
        changed = {(kind, key) for kind, key, _ in self._undo}
        if not changed:
            return
        self._db.execute("BEGIN")
        for kind, key in sorted(changed):
            document = self._documents[kind].get(key)
            if document is None:
                self._db.execute("DELETE FROM documents WHERE kind = ? AND id = ?", (kind, key))
            else:
                self._db.execute("INSERT INTO documents VALUES (?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                                 (kind, key, json.dumps(document)))
        self._db.execute("COMMIT")

    def _roll_back(self) -> None:
        for kind, key, before in reversed(self._undo):
            if before is None:
                self._documents[kind].pop(key, None)
            else:
                self._documents[kind][key] = before

    def get(self, kind: str, key: str) -> Document | None:
        """Give a document, or None."""
        with self._lock:
            return self._documents.get(kind, {}).get(key)

    def all(self, kind: str) -> list[Document]:
        """Give all documents of a kind, oldest first."""
        with self._lock:
            return list(self._documents.get(kind, {}).values())

    def find(self, kind: str, **values: Any) -> list[Document]:
        """Give the documents of a kind that have these values."""
        return [doc for doc in self.all(kind) if all(doc.get(key) == value for key, value in values.items())]

    def put(self, kind: str, document: Document) -> Document:
        """Add or replace the document with ``document["id"]``."""
        self._set(kind, document["id"], document)
        return document

    def update(self, kind: str, key: str, **changes: Any) -> Document:
        """Put a copy of a document with some values changed.

        :raises KeyError: there is no such document.
        """
        return self.put(kind, {**self._documents.get(kind, {})[key], **changes})

    def remove(self, kind: str, key: str) -> None:
        """Remove a document; it may be gone already."""
        self._set(kind, key, None)

    def _set(self, kind: str, key: str, document: Document | None) -> None:
        if not self._depth:
            raise RuntimeError("the cloud's state changes within a transaction only")
        documents = self._documents.setdefault(kind, {})
        before = documents.get(key)
        if before is None and document is None:
            return
        self._undo.append((kind, key, before))
        if document is None:
            del documents[key]
        else:
            documents[key] = document

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
