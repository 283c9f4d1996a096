"""A proxy before an object store that does what networks do: waits, breaks off, refuses, cuts short, changes bytes."""

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from web import serving

Fault = Callable[[str, int], str]
"""By path and how often it was asked for before: "", "reset", "503", "short", "wrong", or "gone"."""


class Proxy:
    """Passes requests on, counts them, and spoils some."""

    def __init__(self, upstream: str, *, latency_s: float = 0.0, fault: Fault | None = None) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.num_bytes = 0
        self.latency_s = latency_s
        self.bytes_per_s = 0.0
        self.remembers = False
        """Answer what was asked for before from memory, for a server that is slower than the network it stands for."""
        self._memory: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}
        self.fault: Fault = fault or (lambda _path, _before: "")
        self._lock = threading.Lock()
        self._host = urlsplit(upstream).netloc
        self._server = serving(self._handle)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, suffix: str = "") -> int:
        return sum(number for (verb, path), number in self.requests.items() if verb == method and path.endswith(suffix))

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        with self._lock:
            before = self.requests[handler.command, path]
            self.requests[handler.command, path] += 1
        fault = self.fault(path, before) if handler.command == "GET" else ""
        time.sleep(self.latency_s)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if fault in ("503", "gone"):
            handler.send_response(503 if fault == "503" else 404)
            handler.send_header("Retry-After", "1")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        status, headers, content = self._answer(handler, path, body)
        handler.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                handler.send_header(name, value)
        length = dict(headers).get("Content-Length") if handler.command == "HEAD" else None
        if fault == "short":
            content = content[: len(content) // 2]
        if fault == "wrong":
            content = content[:2000] + bytes(byte ^ 255 for byte in content[2000:2100]) + content[2100:]
        handler.send_header("Content-Length", length or str(len(content)))
        handler.end_headers()
        if fault == "reset":
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        with self._lock:
            self.num_bytes += len(content)
        if handler.command != "HEAD":
            for start in range(0, len(content), 1 << 16):
                piece = content[start : start + (1 << 16)]
                if self.bytes_per_s:
                    time.sleep(len(piece) / self.bytes_per_s)
                handler.wfile.write(piece)

    def _answer(
        self, handler: BaseHTTPRequestHandler, path: str, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and content from the server behind, or from memory."""
        is_plain = handler.command == "GET" and "Range" not in handler.headers
        if self.remembers and is_plain and path in self._memory:
            return self._memory[path]
        connection = http.client.HTTPConnection(self._host, timeout=30)
        connection.request(handler.command, handler.path, body, dict(handler.headers))
        answer = connection.getresponse()
        found = answer.status, answer.getheaders(), answer.read()
        connection.close()
        if self.remembers and is_plain and answer.status == 200:
            self._memory[path] = found
        return found
