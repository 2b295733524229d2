"""``/openapi.json``, and ``/docs``: a page that shows it, of files that come with the package.

The viewer is as its makers have it (``vendor/``). It asks nobody but this node: the page's policy forbids the rest.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from api_node.reference.document import document

if TYPE_CHECKING:
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
    """The handlers. What they answer is made once, here."""

    def __init__(self) -> None:
        folder = files("api_node.reference")
        made = msgspec.json.encode(document())
        self._answers = {"/openapi.json": (made, "application/json")} | {
            path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        for path, (body, kind) in self._answers.items():
            handler = _serves(body, kind)
            app.router.add_get(path, handler)
            app.router.add_get(path + "/", handler)


def _serves(body: bytes, kind: str) -> Handler:
    etag = hashlib.sha256(body).hexdigest()[:32]
    headers = {**_HEADERS, "ETag": f'"{etag}"'}
    if kind.startswith("text/html"):
        headers["Content-Security-Policy"] = _POLICY

    async def serve(request: web.Request) -> web.Response:
        known = request.if_none_match or ()
        if any(tag.value in (etag, "*") for tag in known):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers={**headers, "Content-Type": kind})

    return serve
