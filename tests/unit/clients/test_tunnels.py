"""What the client library does before and beside a tunnel's bytes."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import websocket

from cml_nova.clients.sdk import Tunnel, TunnelError, TunnelTicket, tunnels

TICKET = TunnelTicket("wss://cloud.test/tunnel", "hush-hush", "2026-01-01T00:00:00.000Z", 0, "worker:0", 6006, "cml", "ssh-ed25519 AAAA")


class Socket:
    """Stands where websocket-client's stands."""

    def __init__(self, first: str, status: int = 101) -> None:
        self._first, self._status = first, status

    def getstatus(self) -> int:
        return self._status

    def recv(self) -> str:
        return self._first

    def close(self) -> None:
        """Nothing is open."""


def test_the_token_is_in_no_text_of_a_ticket() -> None:
    assert "hush" not in repr(TICKET) + str(TICKET)


@pytest.mark.parametrize(("verify", "environment", "expected"), [
    (True, {}, {}), (True, {"REQUESTS_CA_BUNDLE": "/env.pem"}, {"ca_certs": "/env.pem"}), ("/own.pem", {}, {"ca_certs": "/own.pem"}),
    (False, {"REQUESTS_CA_BUNDLE": "/env.pem"}, {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}),
])
def test_certificates_are_checked_as_those_of_the_api(monkeypatch: pytest.MonkeyPatch, verify: bool | str, environment: dict[str, str],
                                                      expected: dict[str, Any]) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tunnels._tls(verify) == expected


@pytest.mark.parametrize(("answer", "words"), [
    (Socket('{"error": "The job has ended."}'), "The job has ended."),
    (Socket("", status=302), "is no tunnel: it answers 302"),
    (Socket("<html>"), "There is no connection to the tunnel at wss://cloud.test/tunnel"),
    (websocket.WebSocketBadStatusException("Handshake status %d %s", 401), "does not take the token"),
    (websocket.WebSocketBadStatusException("Handshake status %d %s", 502), "answers 502; an operator has to see to"),
    (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
])
def test_where_there_is_no_tunnel_the_error_says_why(monkeypatch: pytest.MonkeyPatch, answer: Any, words: str) -> None:
    asked: dict[str, Any] = {}

    def connect(url: str, **options: Any) -> Any:
        asked.update(options, url=url)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(websocket, "create_connection", connect)
    with pytest.raises(TunnelError) as error:
        Tunnel(TICKET)
    assert words in str(error.value)
    assert "hush" not in str(error.value) + asked["url"]
    assert asked["header"] == ["Authorization: Bearer hush-hush"]
    assert asked["redirect_limit"] == 0
