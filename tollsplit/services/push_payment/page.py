"""The pages for people: files of this package, and what browsers may do with them."""

from __future__ import annotations

from os import PathLike, stat_result

from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

HEADERS = {
    # Nothing from elsewhere, nothing written into a page, in no frame of anybody's.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Permissions-Policy": "camera=(self), accelerometer=(self), gyroscope=(self), microphone=(), "
                          "geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for anew, and answered by "not modified"
}  # fmt: skip


class Pages(StaticFiles):
    def file_response(
        self, full_path: str | PathLike[str], stat_result: stat_result, scope: Scope,
        status_code: int = 200,
    ) -> Response:  # fmt: skip
        found = super().file_response(full_path, stat_result, scope, status_code)
        found.headers.update(HEADERS)
        return found


PAGES: tuple[BaseRoute, ...] = (
    Mount("/pages", Pages(packages=[("tollsplit.services.push_payment", "pages")])),
)
