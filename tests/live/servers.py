"""HTTP and UDP echo on both address families, for a namespace of the lab.

HTTP GET /n answers n octets; POST answers how many it was given. Ends with its standard input,
or after a quarter of an hour.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTTP_PORT, ECHO_PORT = 8080, 7007


class Handler(BaseHTTPRequestHandler):
    timeout = 20

    def do_GET(self) -> None:
        self._answer(bytes(int(self.path[1:])))

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        taken = 0
        while taken < left:
            taken += len(self.rfile.read(min(65536, left - taken)))
        self._answer(str(taken).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        octets, opened = self.request
        opened.sendto(octets, self.client_address)


class EchoServer(socketserver.UDPServer):
    address_family = socket.AF_INET6
    max_packet_size = 65536


def main() -> None:
    # "::" takes IPv4 too.
    servers = [Server(("::", HTTP_PORT), Handler), EchoServer(("::", ECHO_PORT), Echo)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait(900)
    os._exit(0)


if __name__ == "__main__":
    main()
