"""What a token must be for, by route. A route that is not listed asks for ``admin``: nobody opens one by forgetting it.

Writing is what adds events, reading whatever shows counts or the cluster, admin the rest. Open to all is what a load
balancer asks, and what a browser must have before its user can give it a token.
"""

from __future__ import annotations

from common.tokens import Scope

OPEN = frozenset(
    {
        "/livez", "/readyz", "/openapi.json", "/docs", "/docs/page.css", "/docs/viewer.js", "/", "/dashboard/{name}",
    }
)  # fmt: skip
SCOPES = {
    ("POST", "/analytics"): Scope.WRITE,
    ("POST", "/events"): Scope.WRITE,
    ("GET", "/analytics"): Scope.READ,
    ("GET", "/analytics/perworker"): Scope.READ,
    ("GET", "/analytics/allslices"): Scope.READ,
    ("GET", "/cluster"): Scope.READ,
    ("GET", "/live"): Scope.READ,
    ("GET", "/live/process"): Scope.READ,
    ("GET", "/metrics"): Scope.READ,
    ("POST", "/cluster/routes"): Scope.ADMIN,
}


def scope_of(method: str, route: str) -> Scope | None:
    """What a call of a route's template is; None: it is open to all."""
    path = route.rstrip("/") or "/"
    if path in OPEN and method in ("GET", "HEAD"):
        return None
    return SCOPES.get(("GET" if method == "HEAD" else method, path), Scope.ADMIN)
