"""Which pages of other origins may call from a browser (CORS, as the Fetch standard has it). No cookies are involved.

This protects nobody from anything: it lets browsers hand our answers to pages that they would otherwise keep them from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

ANY_ORIGIN = "*"
ORIGIN_FORM = (
    'an origin such as "https://shop.example.org": scheme, host in lower case, a port where it is not the usual'
)

ALLOWED_HEADERS = ("Authorization", "Content-Type", "X-Request-Id")
EXPOSED_HEADERS = (
    "X-Durability", "X-Complete", "X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate",
)  # fmt: skip
MAX_AGE_SECONDS = 7200  # for how long a browser need not ask again; none keeps it for longer

_ORIGIN = re.compile(r"https?://([a-z0-9_.-]+|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?", re.ASCII)
_USUAL_PORTS = re.compile(r"http://.*:80|https://.*:443")


def is_origin(value: object) -> bool:
    """Whether browsers may send this as an ``Origin``, letter for letter."""
    return isinstance(value, str) and _ORIGIN.fullmatch(value) is not None and _USUAL_PORTS.fullmatch(value) is None


class Cors:
    """What is told to browsers.

    Args:
        origins: of the pages that may call; ``("*",)``: all; none: nothing is told.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins)
        self._any = ANY_ORIGIN in self._origins
        self.active = bool(self._origins)
        # Only where the answer is another for another origin, caches must know.
        self._vary = {"Vary": "Origin"} if self.active and not self._any else {}

    def headers(self, origin: str | None) -> Mapping[str, str]:
        """What an answer to a page of this origin has; without an origin, it is no page that asks."""
        allowed = self._allowed(origin)
        if allowed is None:
            return self._vary
        exposed = {"Access-Control-Expose-Headers": ", ".join(EXPOSED_HEADERS)}
        return {"Access-Control-Allow-Origin": allowed, **exposed, **self._vary}

    def preflight(self, origin: str | None, methods: Iterable[str]) -> Mapping[str, str]:
        """What a browser is told beside ``headers`` that asks whether a page may call, before it does."""
        if self._allowed(origin) is None:
            return {}
        return {
            "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
            "Access-Control-Allow-Headers": ", ".join(ALLOWED_HEADERS),
            "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        }

    def _allowed(self, origin: str | None) -> str | None:
        if origin is None or not self.active:
            return None
        if self._any:
            return ANY_ORIGIN
        return origin if origin in self._origins else None
