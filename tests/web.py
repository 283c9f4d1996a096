"""A web server on loopback that serves files as web servers do, well or badly."""

import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[str, int], str]
"""By name and how often it was asked for before: "", or a word that `Web` knows."""


def started(server: ThreadingHTTPServer) -> ThreadingHTTPServer:
    """The server, at work on a thread of its own; its `shutdown` takes a hundredth of a second, not half a one."""
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    """A running server on loopback whose every request a function answers; clients that go away are passed over."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    return started(Server(("127.0.0.1", 0), Handler))


class Web:
    """Serves `files` by name; `behaviour` spoils some answers:

    cut: the connection breaks after half of what was asked for. long: says it has more than it sends. 503: asks for
    patience. 404, 403: refuses. redirect: sends to /there/<name>. slow: a byte now and then. plain: knows no ranges.
    other: other bytes of the same length. still: never answers.
    """

    def __init__(self, files: dict[str, bytes], behaviour: Behaviour | None = None) -> None:
        self.files = files
        self.behaviour: Behaviour = behaviour or (lambda _name, _before: "")
        self.asked: list[tuple[str, str]] = []
        """Names with the range that was asked for."""
        self.num_bytes = 0
        """Bytes that were sent."""
        self._lock = threading.Lock()
        self._server = serving(self._answer)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, name: str) -> int:
        return sum(asked == name for asked, _ in self.asked)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.lstrip("/").removeprefix("there/")
        with self._lock:
            before = self.count(name)
            self.asked.append((name, handler.headers.get("Range", "")))
        how = self.behaviour(name, before)
        content = self.files.get(name)
        if how == "still":
            time.sleep(30)
        if how in ("403", "404", "503") or content is None:
            handler.send_response(int(how) if how.isdigit() else 404)
            if how == "503":
                handler.send_header("Retry-After", "1")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if how == "redirect" and not handler.path.startswith("/there/"):
            handler.send_response(302)
            handler.send_header("Location", f"{self.url}/there/{name}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if how == "other":
            content = bytes(byte ^ 255 for byte in content)
        self._send(handler, content, how)

    def _send(self, handler: BaseHTTPRequestHandler, content: bytes, how: str) -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        is_same = handler.headers.get("If-Range", tag) == tag
        start = int(wanted[1]) if wanted and is_same and "plain" not in how else 0
        total = len(content)
        if start >= total > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{total}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        part = content[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if "plain" not in how:
            handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(part) + (1000 if how == "long" else 0)))
        handler.end_headers()
        if "cut" in how:
            part = part[: len(part) // 2]
        for at in range(0, len(part), 1 << 14):
            piece = part[at : at + (1 << 14)]
            if how == "slow":
                time.sleep(0.1)
            handler.wfile.write(piece)
            with self._lock:
                self.num_bytes += len(piece)
        if "cut" in how or how == "long":
            handler.wfile.flush()
            if "cut" in how:
                time.sleep(0.05)
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
