"""A proxy that keeps an access log of its own: where a service of the cloud writes none, or several clients are in it."""

from __future__ import annotations

import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

_IDS = re.compile(r"/[0-9a-f]{32}(?=/|$)|/[0-9a-f-]{36}(?=/|$)")
#: headers that belong to one connection or to the encoding of one message
_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "accept-encoding", "host")


class Recorder:
    """Stands before one HTTP service: passes requests on, counts them, and puts itself in its place in every URL of the answers.

    :param upstream: the service's URL without a path.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream.rstrip("/")
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="recorder", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def counts(self) -> Counter[str]:
        """Tell how many requests of each kind there were, as "METHOD /path" with {id} for ids."""
        with self._lock:
            return Counter(self._counts)

    def translate(self, url: str) -> str:
        """Give the URL under which the recorder has what is upstream."""
        return url.replace(self._upstream, self.url)

    def _pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._counts[f"{handler.command} {_IDS.sub('/{id}', handler.path.partition('?')[0])}"] += 1
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP}
        try:
            answer = requests.request(handler.command, self._upstream + handler.path, data=body, headers=headers, timeout=120,
                                      allow_redirects=False)
        except requests.RequestException:
            handler.close_connection = True  # as if there were nothing here
            return
        content = answer.content.replace(self._upstream.encode(), self.url.encode())
        handler.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP:
                handler.send_header(name, self.translate(value))
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                recorder._pass_on(self)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler
