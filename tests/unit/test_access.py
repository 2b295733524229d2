"""Who comes in, as in common/access.py: no server, no file; both clocks are the test's."""

from __future__ import annotations

from typing import Any

import pytest

from common.access import REASONS, Access, Rules
from common.errors import Forbidden, RequestError, TooManyRequests, Unauthorized
from common.tokens import Scope, Token, Tokens, digest_of
from tests.support.configs import cluster_config

SHOP, GRAFANA, FREE, OLD = (f"tsl_{name}" for name in ("shop", "grafana", "free", "old"))
HERE = "192.0.2.1"
TOKENS = {
    SHOP: Token(name="shop", scopes=frozenset({Scope.WRITE})),
    GRAFANA: Token(name="grafana", scopes=frozenset({Scope.READ})),
    FREE: Token(name="free", scopes=frozenset({Scope.WRITE}), own_limit=True),
    OLD: Token(name="old", scopes=frozenset(Scope), expires=1000.0),
}


class Door:
    """An access with clocks, and what it denied."""

    def __init__(self, *, tokens: dict[str, Token] | None = None, internal: str | None = None, **settings: Any) -> None:
        self.denied: list[str] = []
        self.now = 500.0
        self.access = Access(denied=self.denied.append, now=lambda: self.now, monotonic=lambda: self.now)
        self.follow(tokens=tokens, internal=internal, **settings)

    def follow(self, *, tokens: dict[str, Token] | None = None, internal: str | None = None, **settings: Any) -> None:
        """Go by these from now on."""
        known = None
        if tokens is not None:
            known = Tokens(by_digest={digest_of(text): token for text, token in tokens.items()}, version="v")
        self.access.follow(Rules(config=cluster_config(**settings), tokens=known, internal=internal))

    def ask(self, token: str | None = None, scope: Scope = Scope.WRITE, address: str = HERE) -> str | None:
        """Knock."""
        return self.access.admit(None if token is None else f"Bearer {token}", address, scope)

    def refusal(self, *args: Any, **kwargs: Any) -> RequestError:
        """Knock, and be refused."""
        with pytest.raises(RequestError) as caught:
            self.ask(*args, **kwargs)
        return caught.value


def test_without_anything_configured_nobody_is_asked() -> None:
    """And the hot path can see that."""
    door = Door()

    assert not door.access.guards
    assert door.ask() is None
    assert door.access.callers == 0


def test_a_known_token_comes_in_for_what_it_is_for() -> None:
    """It is told by its name."""
    door = Door(tokens=TOKENS)

    assert door.access.guards
    assert door.ask(SHOP) == "shop"
    assert door.ask(GRAFANA, Scope.READ) == "grafana"
    assert door.denied == []


@pytest.mark.parametrize(
    ("header", "reason", "challenge"),
    [
        (None, "no_token", "Bearer"),
        ("", "no_token", "Bearer"),
        ("Bearer", "no_token", "Bearer"),
        ("Basic c2hvcDo=", "no_token", "Bearer"),
        ("Bearer tsl_nobody", "unknown_token", 'Bearer error="invalid_token"'),
        ("Bearer \udcff", "unknown_token", 'Bearer error="invalid_token"'),
        ("Bearer tsl_old", "expired_token", 'Bearer error="invalid_token"'),
    ],
)
def test_who_is_not_known_is_401(header: str | None, reason: str, challenge: str) -> None:
    """As RFC 6750 has it: who sent nothing is only told what to send."""
    door = Door(tokens=TOKENS)
    door.now = 1000.0

    with pytest.raises(Unauthorized) as caught:
        door.access.admit(header, HERE, Scope.READ)

    assert caught.value.headers == {"WWW-Authenticate": challenge}
    assert door.denied == [reason]
    assert "tsl_" not in str(caught.value)


def test_a_token_for_something_else_is_403() -> None:
    """It is told what it would have to be for."""
    door = Door(tokens=TOKENS)

    error = door.refusal(SHOP, Scope.READ)

    assert isinstance(error, Forbidden)
    assert error.headers == {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="read"'}
    assert door.denied == ["scope"]


def test_a_token_expires_while_the_node_runs() -> None:
    """Nothing remembers that it was good."""
    door = Door(tokens=TOKENS)

    assert door.ask(OLD) == "old"
    door.now = 1000.0
    assert isinstance(door.refusal(OLD), Unauthorized)


def test_a_revoked_token_is_unknown_at_once() -> None:
    """Likewise."""
    door = Door(tokens=TOKENS)
    assert door.ask(SHOP) == "shop"

    door.follow(tokens={GRAFANA: TOKENS[GRAFANA]})

    assert isinstance(door.refusal(SHOP), Unauthorized)


def test_the_scheme_is_bearer_in_any_case_of_letters() -> None:
    """RFC 9110: schemes are compared so."""
    assert Door(tokens=TOKENS).access.admit(f"bEARER  {SHOP} ", HERE, Scope.WRITE) == "shop"


def test_the_internal_token_opens_everything() -> None:
    """Whoever has it could ask the workers; no rate holds a node up."""
    door = Door(tokens={}, internal="sesame", rate_limits={"per-token": "1/second", "per-address": "1/second"})

    assert [door.ask("sesame", scope) for scope in [*Scope, *Scope]] == ["internal"] * 6


def test_without_a_tokens_file_the_internal_token_asks_nothing_of_clients() -> None:
    """It is for nodes."""
    assert Door(internal="sesame").ask() is None


def test_addresses_are_counted_where_nobody_is_asked_for_a_token() -> None:
    """One too many is 429, and tells when there is room again."""
    door = Door(rate_limits={"per-address": "2/10 seconds"})
    door.ask()
    door.now += 3
    door.ask()

    error = door.refusal()

    assert isinstance(error, TooManyRequests)
    assert error.retry_after_seconds == 7
    assert error.headers == {"RateLimit-Policy": '"per-address";q=2;w=10', "RateLimit": '"per-address";r=0;t=7'}
    assert door.denied == ["address_rate"]
    assert HERE not in str(error)
    assert door.ask(address="192.0.2.2") is None
    door.now += 7
    assert door.ask() is None


def test_a_token_is_counted_wherever_it_comes_from() -> None:
    """And not the address, where only tokens have a rate."""
    door = Door(tokens=TOKENS, rate_limits={"per-token": "2/minute"})
    for number in range(2):
        door.ask(SHOP, address=f"192.0.2.{number}")

    error = door.refusal(SHOP)

    assert error.headers["RateLimit-Policy"] == '"per-token";q=2;w=60'
    assert door.denied == ["token_rate"]
    assert door.ask(FREE) == "free"


def test_a_token_that_many_share_is_counted_by_address_too() -> None:
    """Such as one in a page."""
    door = Door(tokens=TOKENS, rate_limits={"per-token": "100/minute", "per-address": "1/minute"})

    assert door.ask(SHOP) == "shop"
    assert door.ask(SHOP, address="192.0.2.2") == "shop"
    assert door.refusal(SHOP).headers["RateLimit-Policy"].startswith('"per-address"')


def test_a_token_with_a_limit_of_its_own_is_held_to_that_alone() -> None:
    """A server may send from one address what a browser may not."""
    slow = Token(name="slow", scopes=frozenset({Scope.WRITE}), own_limit=True, limit=None)
    door = Door(tokens=TOKENS | {"tsl_slow": slow}, rate_limits={"per-token": "1/day", "per-address": "1/day"})

    assert [door.ask("tsl_slow") for _ in range(5)] == ["slow"] * 5
    assert [door.ask(FREE) for _ in range(5)] == ["free"] * 5


@pytest.mark.parametrize("token", [None, "tsl_guess"])
def test_whoever_tries_tokens_gets_slower(token: str | None) -> None:
    """Refused requests count by address too."""
    door = Door(tokens=TOKENS, rate_limits={"per-address": "2/minute"})

    kinds = [type(door.refusal(token)) for _ in range(3)]

    assert kinds == [Unauthorized, Unauthorized, TooManyRequests]


def test_a_request_for_something_else_counts_as_well() -> None:
    """403 is no way around the rate."""
    door = Door(tokens=TOKENS, rate_limits={"per-token": "1/minute"})

    assert [type(door.refusal(SHOP, Scope.READ)) for _ in range(2)] == [Forbidden, TooManyRequests]


def test_other_rules_forget_nothing_that_was_counted() -> None:
    """Or an edit of the file would let everybody call again."""
    door = Door(rate_limits={"per-address": "1/minute"})
    door.ask()

    door.follow(rate_limits={"per-address": "1/minute"}, max_slices=7)

    assert isinstance(door.refusal(), TooManyRequests)


def test_one_header_of_a_token_is_remembered() -> None:
    """Or a client could fill the memory with ways to write the same."""
    door = Door(tokens=TOKENS)

    for spaces in (1, 2, 3, 1):
        assert door.access.admit(f"Bearer{' ' * spaces}{SHOP}", HERE, Scope.WRITE) == "shop"

    assert door.access.headers_seen == 1


def test_what_is_unknown_is_not_remembered() -> None:
    """Or whoever tries tokens would fill the memory."""
    door = Door(tokens=TOKENS)

    for number in range(10):
        door.refusal(f"tsl_{number}")

    assert door.access.headers_seen == 0


def test_every_reason_can_happen() -> None:
    """The metric has no others."""
    door = Door(tokens=TOKENS, rate_limits={"per-token": "1/minute", "per-address": "5/minute"})
    door.refusal()
    door.refusal("tsl_nobody")
    door.refusal(SHOP, Scope.READ)
    door.refusal(SHOP)
    door.now = 1000.0
    door.refusal(OLD)
    for _ in range(5):
        door.refusal()

    assert set(door.denied) == set(REASONS)
