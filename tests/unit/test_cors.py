"""What browsers are told of other origins' pages, as in common/cors.py."""

from __future__ import annotations

import pytest

from common.cors import Cors, is_origin

SHOP, OTHER = "https://shop.example.org", "https://other.example"


@pytest.mark.parametrize(
    ("origin", "good"),
    [
        (SHOP, True),
        ("http://localhost:8080", True),
        ("http://[::1]:3000", True),
        ("https://shop.example.org:8443", True),
        ("https://shop.example.org/", False),
        ("https://Shop.example.org", False),
        ("https://shop.example.org:443", False),
        ("http://localhost:80", False),
        ("shop.example.org", False),
        ("null", False),
        ("*", False),
        ("https://*.example.org", False),
        (7, False),
    ],
)
def test_an_origin_is_as_browsers_send_it(origin: object, *, good: bool) -> None:
    """Letter for letter, or it would never match."""
    assert is_origin(origin) == good


def test_by_default_nothing_is_told() -> None:
    """Then browsers keep answers from pages of other origins."""
    cors = Cors()

    assert not cors.active
    assert cors.headers(SHOP) == {}
    assert cors.preflight(SHOP, ["GET"]) == {}


def test_a_listed_origin_is_told_and_caches_know() -> None:
    """By name; another one gets an answer without."""
    cors = Cors([SHOP])

    assert cors.headers(SHOP)["Access-Control-Allow-Origin"] == SHOP
    assert cors.preflight(SHOP, ["POST", "GET"])["Access-Control-Allow-Methods"] == "GET, POST"
    assert cors.headers(OTHER) == {"Vary": "Origin"}
    assert cors.headers(None) == {"Vary": "Origin"}
    assert cors.preflight(OTHER, ["GET"]) == {}


def test_all_origins_are_one_answer() -> None:
    """Which does not vary; without an origin it is no page."""
    cors = Cors(["*"])

    assert cors.headers(SHOP)["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in cors.headers(SHOP)
    assert cors.headers(None) == {}


@pytest.mark.parametrize("origins", [[SHOP], ["*"]])
def test_cookies_play_no_part(origins: list[str]) -> None:
    """So no page can use what a browser knows of its user."""
    cors = Cors(origins)

    told = [*cors.headers(SHOP), *cors.preflight(SHOP, ["GET"])]
    assert "Access-Control-Allow-Credentials" not in told
