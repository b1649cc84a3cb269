"""The world outside the cluster, on this machine's end of its network: pages, and git over https."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "10.201.0.1"
"""Our own cluster's way to this machine, where the proxy of these tests stands."""
BACKEND = "/usr/lib/git-core/git-http-backend"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # bodies have a length: GnuTLS takes a bare end of the connection for an attack

    def log_message(self, format: str, *args: object) -> None:
        return


class Page(_Handler):
    """Answers everything, and keeps what was asked with which authorisation."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server = self.server
        assert isinstance(server, Web)
        server.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"the page")


class Git(_Handler):
    """git's own server program (CGI, RFC 3875), over the repositories of the server's folder."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server = self.server
        assert isinstance(server, Web)
        path, _, query = self.path.partition("?")
        server.asked.append((self.command, path, ""))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        said = self._body()
        done = subprocess.run([BACKEND], input=said, env=environment, capture_output=True, check=True, timeout=30)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().splitlines()]
        status = next((value for name, _, value in lines if name == "Status"), "200 OK")
        self.send_response(int(status.split()[0]))
        for name, _, value in lines:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)


class Web(ThreadingHTTPServer):
    def __init__(self, handler: type[_Handler], root: Path) -> None:
        super().__init__((HOST, 0), handler)
        self.root = root
        self.asked: list[tuple[str, str, str]] = []


@contextmanager
def web(handler: type[_Handler] = Page, *, tls: ssl.SSLContext | None = None, root: Path = Path()) -> Iterator[Web]:
    """A web server on this machine, `server_port` of which pods reach through a proxy alone."""
    with Web(handler, root) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
