"""``/openapi.json``, and ``/docs``: a page that shows it, of files that come with the package.

The viewer is as its makers have it (``vendor/``). It asks nobody but this node: the page's policy forbids the rest.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from api_node.reference.document import document

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler

_FILES = {
    "/docs": ("pages/docs.html", "text/html; charset=utf-8"),
    "/docs/page.css": ("pages/docs.css", "text/css; charset=utf-8"),
    "/docs/viewer.js": ("vendor/openapi-explorer/openapi-explorer.min.js", "text/javascript; charset=utf-8"),
}

_HEADERS = {
    # Kept, but asked for each time: a node of another version has other files.
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Styles may stand at elements: the viewer is made of components that carry theirs along. Scripts may not.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ReferenceRoutes:
    """The handlers. What they answer is made once, when somebody asks for it: most nodes are never asked."""

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        folder = files("api_node.reference")
        makers = {"/openapi.json": (lambda: msgspec.json.encode(document()), "application/json")} | {
            path: (folder.joinpath(name).read_bytes, kind) for path, (name, kind) in _FILES.items()
        }
        for path, (make, kind) in makers.items():
            handler = _serves(make, kind)
            app.router.add_get(path, handler)
            app.router.add_get(path + "/", handler)


def _serves(make: Callable[[], bytes], kind: str) -> Handler:
    @cache
    def made() -> tuple[bytes, str, dict[str, str]]:
        body = make()
        etag = hashlib.sha256(body).hexdigest()[:32]
        headers = {**_HEADERS, "ETag": f'"{etag}"'}
        if kind.startswith("text/html"):
            headers["Content-Security-Policy"] = _POLICY
        return body, etag, headers

    async def serve(request: web.Request) -> web.Response:
        body, etag, headers = made()
        known = request.if_none_match or ()
        if any(tag.value in (etag, "*") for tag in known):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers={**headers, "Content-Type": kind})

    return serve
