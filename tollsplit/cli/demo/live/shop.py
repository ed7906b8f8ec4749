"""The shop and its payment server, as a program: python -m tollsplit.cli.demo.live.shop ADDRESS

Other servers of the story are the same program: GET /octets/N answers N octets.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 80
PICTURE = "/octets/120000"
PRICE = "19.90"
_PAGE = '<!doctype html><meta charset="utf-8"><title>{title}</title>{body}'
# A page of a shop as shops have them: a field for a card's number tells that something is paid.
CHECKOUT = f"""<h1>Two novels</h1><p>{PRICE} CNY</p>
<label>Card <input autocomplete="cc-number" value="4111 1111 1111 1111"></label>
<button id="pay">Pay</button> <output></output>
<script>
  document.querySelector("#pay").onclick = async () => {{
    const answer = await fetch("/pay", {{method: "POST", body: "order=1812"}});
    document.querySelector("output").textContent = (await answer.json()).said;
    const picture = new Image();
    picture.onload = picture.onerror = () => document.title = "paid";
    picture.src = "{PICTURE}";
  }};
</script>"""
PAGES = {"/": ("Shop", "<h1>Books</h1>"), "/checkout": ("Checkout", CHECKOUT)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if self.path.startswith("/octets/"):
            self._answer(200, "application/octet-stream", os.urandom(int(self.path[8:])))
        elif self.path == "/via":  # whether it came through a sponsor's proxy
            self._answer(200, "text/plain", self.headers.get("Via", "").encode())
        elif self.path in PAGES:
            title, body = PAGES[self.path]
            self._answer(200, "text/html", _PAGE.format(title=title, body=body).encode())
        else:
            self._answer(404, "text/plain", b"no such page")

    def do_POST(self) -> None:
        order = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(200, "application/json", json.dumps({"said": f"{order}: paid"}).encode())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


def main(address: str) -> None:
    server = ThreadingHTTPServer((address, PORT), Handler)
    print(f"serving on {address}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
