"""Who may call: one question, asked at the edge before anything is done for a request.

::

    Authorization --> known token? --no--> 401     (and the address has one request less)
                           |
    address -----> calls left, of address and token? --no--> 429
                           |
    scope of the route --> one of the token's? --no--> 403
                           |
                        come in

Without a tokens file nobody is asked for a token, without rate limits nobody is counted, and without both ``guards``
is False: then whoever is in a hurry need not ask at all. Where there are both, a token is looked up by its hash; the
header that brought it is remembered, so that it is one look-up the next time, until the file changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from common.addresses import caller_of, client_of
from common.config import ClusterConfig
from common.cors import Cors
from common.errors import Forbidden, TooManyRequests, Unauthorized
from common.limiter import Limiter, Spent
from common.rates import Rate
from common.tokens import TOKENS_MAX, Scope, Token, Tokens, digest_of

REASONS = ("no_token", "unknown_token", "expired_token", "scope", "token_rate", "address_rate")
"""Why somebody was not let in, for the metric."""


_INTERNAL = Token(name="internal", scopes=frozenset(Scope), own_limit=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is configured, of one moment.

    Attributes:
        config: the cluster file.
        tokens: what the tokens file that it names has; None if it names none.
        internal: the token that nodes show each other: whoever has it may do more at the workers anyway.
    """

    config: ClusterConfig
    tokens: Tokens | None = None
    internal: str | None = None


class Access:
    """Decides who comes in; follows the rules as they change.

    Args:
        denied: told each time somebody does not, with one of ``REASONS``.
        now: the system's clock, in seconds: tokens expire by it.
        monotonic: seconds that never go back: rates are counted by it.

    Attributes:
        guards: whether there is anything to ask; False: everybody comes in.
        counts_addresses: whether it matters where a request comes from; else ``NOBODY`` will do.
        cors: which pages may call from a browser.
    """

    def __init__(
        self,
        *,
        denied: Callable[[str], None],
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.guards = self.counts_addresses = False
        self.cors = Cors()
        self._denied = denied
        self._now = now
        self._rules: Rules | None = None
        self._known: dict[bytes, Token] | None = None
        self._seen: dict[str, Token] = {}  # headers that brought a known token
        self._per_token: Rate | None = None
        self._per_address: Rate | None = None
        # Apart, so that no flood of addresses pushes out what is counted of tokens.
        self._tokens = Limiter(callers_max=TOKENS_MAX, now=monotonic)
        self._addresses = Limiter(now=monotonic)

    @property
    def asks_for_tokens(self) -> bool:
        """Whether there is a tokens file."""
        return self._known is not None

    @property
    def tokens(self) -> int:
        """How many tokens the file has."""
        return 0 if self._rules is None or self._rules.tokens is None else len(self._rules.tokens.by_digest)

    @property
    def callers(self) -> int:
        """How many callers are counted at the moment."""
        return len(self._tokens) + len(self._addresses)

    @property
    def headers_seen(self) -> int:
        """How many headers are remembered."""
        return len(self._seen)

    def follow(self, rules: Rules) -> None:
        """Go by other rules from now on. What was counted stays counted, where the rate is the same."""
        limits = rules.config.rate_limits
        self._rules = rules
        self._per_token = None if limits is None else limits.per_token
        self._per_address = None if limits is None else limits.per_address
        self._known = None
        self._seen = {}
        if rules.tokens is not None:
            self._known = dict(rules.tokens.by_digest)
            if rules.internal is not None:
                self._known[digest_of(rules.internal)] = _INTERNAL
        self.cors = Cors(rules.config.cors_origins)
        self.counts_addresses = self._per_address is not None
        self.guards = self._known is not None or self.counts_addresses

    def client(self, peer: str | None, forwarded: Iterable[str]) -> str:
        """Whose address counts, of a request that comes by a peer with these values of ``X-Forwarded-For``."""
        return client_of(peer, forwarded, () if self._rules is None else self._rules.config.trusted_proxies)

    def admit(self, authorization: str | None, address: str, scope: Scope) -> str | None:
        """Let somebody in.

        Args:
            authorization: the header of that name, if there is one.
            address: the client's, see ``client``.
            scope: what he wants.

        Returns:
            The name of his token; None where nobody is asked for one.

        Raises:
            Unauthorized: he brings no token, or none that is known.
            TooManyRequests: he has called as often as he may.
            Forbidden: his token is not for this.
        """
        if not self.guards:
            return None
        if self._known is None:
            self._count_address(address)
            return None
        token = self._seen.get(authorization or "")
        if token is None or (token.expires is not None and token.expires <= self._now()):
            token = self._look_up(authorization, address)
        self._count(token, address)
        if scope not in token.scopes:
            self._denied("scope")
            raise Forbidden(
                f"this token is not for {scope.value}",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope.value}"'},
            )
        return token.name

    def _look_up(self, authorization: str | None, address: str) -> Token:
        scheme, _, given = (authorization or "").partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer" or not given:
            self._refuse(address, "no_token", "send Authorization: Bearer and a token")
        assert self._known is not None  # noqa: S101 - as admit() has seen
        token = self._known.get(digest_of(given))
        if token is None:
            self._refuse(address, "unknown_token", "this token is not known here")
        if token.expires is not None and token.expires <= self._now():
            self._refuse(address, "expired_token", "this token has expired")
        if authorization == f"Bearer {given}":  # other spellings have no end, so no more than there are tokens
            self._seen[authorization] = token
        return token

    def _refuse(self, address: str, reason: str, detail: str) -> NoReturn:
        # Counted as well: whoever tries tokens gets slower.
        self._count_address(address)
        self._denied(reason)
        # As RFC 6750 has it, who sent nothing is told nothing but what to send.
        challenge = "Bearer" if reason == "no_token" else 'Bearer error="invalid_token"'
        raise Unauthorized(detail, headers={"WWW-Authenticate": challenge})

    def _count(self, token: Token, address: str) -> None:
        if not token.own_limit:
            self._count_address(address)
        rate = token.limit if token.own_limit else self._per_token
        if rate is not None and (spent := self._tokens.spend(token.name, rate)) is not None:
            self._spent("token_rate", "per-token", "with this token", spent)

    def _count_address(self, address: str) -> None:
        if self._per_address is None:
            return
        if (spent := self._addresses.spend(caller_of(address), self._per_address)) is not None:
            self._spent("address_rate", "per-address", "from this address", spent)

    def _spent(self, reason: str, policy: str, who: str, spent: Spent) -> NoReturn:
        self._denied(reason)
        rate, seconds = spent
        raise TooManyRequests(
            f"{rate.requests} requests in {rate.seconds} s are allowed {who}",
            retry_after_seconds=seconds,
            # As draft-ietf-httpapi-ratelimit-headers-10 has it: what is allowed, and what is left of it.
            headers={
                "RateLimit-Policy": f'"{policy}";q={rate.requests};w={rate.seconds}',
                "RateLimit": f'"{policy}";r=0;t={seconds}',
            },
        )
