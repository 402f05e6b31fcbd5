"""Bodies in pieces under uWSGI: what the application reads is what was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import pytest
from werkzeug.test import Client, EnvironBuilder

from cml_nova.wsgi.chunked import decode_chunks


def chunks(*pieces: bytes | OSError) -> Callable[[], bytes]:
    """Give the pieces one by one, then nothing for ever."""
    left = list(pieces)

    def read_chunk() -> bytes:
        piece = left.pop(0) if left else b""
        if isinstance(piece, OSError):
            raise piece
        return piece

    return read_chunk


@pytest.fixture
def echo() -> flask.Flask:
    app = flask.Flask("echo")
    app.add_url_rule("/", "echo", lambda: b"".join(iter(lambda: flask.request.stream.read(3), b"")), methods=["POST"])
    return app


def post(app: Any, body: bytes = b"", **headers: str) -> Any:
    return Client(app).open(EnvironBuilder(method="POST", data=body or None, headers=headers).get_environ())


@pytest.mark.parametrize("pieces", [[], [b"a"], [b"abcd", b"e", b"fghijklmnop"], [b"x" * 3_000_000, b"y"]])
def test_the_application_reads_all_pieces(echo: flask.Flask, pieces: list[bytes]) -> None:
    answer = post(decode_chunks(echo, chunks(*pieces)), **{"Transfer-Encoding": "chunked"})
    assert answer.status_code == 200
    assert answer.data == b"".join(pieces)


def test_a_body_with_a_length_is_left_alone(echo: flask.Flask) -> None:
    def read_chunk() -> bytes:
        raise AssertionError("there are no chunks")

    assert post(decode_chunks(echo, read_chunk), b"plain").data == b"plain"


def test_a_client_that_leaves_midway_is_no_error_of_ours(echo: flask.Flask) -> None:
    answer = post(decode_chunks(echo, chunks(b"abc", OSError("unable to receive chunked part"))), **{"Transfer-Encoding": "chunked"})
    assert answer.status_code == 400
    assert "ended early" in answer.text
