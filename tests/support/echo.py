"""A server that gives away what it is told: whatever it is asked, its answer repeats the request's headers.

It stands for gateways in debug mode and for proxies with talkative error pages; asked through, it is such a proxy itself.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Manner = Literal["json", "text", "stream", "answer"]


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "EchoServer"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked += 1
        told = "; ".join(f"{name}: {value}" for name, value in self.headers.items())
        status, kind, body = self.server.status, "application/json", ""
        match self.server.manner:
            case "json":
                body = json.dumps({"error": {"code": "denied", "message": f"I was told {told}"}})
            case "text":
                kind, body = "text/html", f"<h1>denied</h1><p>I was told {told}</p>"
            case "stream":
                error = json.dumps({"error": {"code": "denied", "message": f"I was told {told}"}})
                kind, body = "text/event-stream", f"event: error\ndata: {error}\n\n"
            case "answer":
                message = {"role": "assistant", "content": "positive"}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                body = json.dumps({"choices": [choice], "model": "m", "debug": told})
        self._say(status, kind, body)

    def do_CONNECT(self) -> None:
        self.server.asked += 1
        self._say(407, "text/plain", f"I was told {self.headers}")

    def _say(self, status: int, kind: str, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class EchoServer(ThreadingHTTPServer):
    """Counts the requests it was `asked`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, status: int, manner: Manner) -> None:
        super().__init__(("127.0.0.1", 0), _Echo)
        self.status = status
        self.manner = manner
        self.asked = 0

    @property
    def place(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self.server_address[1]}"


@contextmanager
def echoing(status: int, manner: Manner = "json") -> Iterator[EchoServer]:
    """A talkative server that listens inside the block."""
    with EchoServer(status, manner) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="echo")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
