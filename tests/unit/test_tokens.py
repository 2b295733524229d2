"""The tokens file, as in common/tokens.py, and the command that writes it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigRefused
from common.rates import Rate
from common.tokens import (
    PREFIX,
    TOKENS_MAX,
    Scope,
    digest_of,
    entry_of,
    load_tokens,
    new_token,
    parse_tokens,
    read_entries,
    read_tokens,
    write_entries,
)
from tallyslice.__main__ import main
from tests.support.configs import cluster_config

HASH = f"sha256:{'ab' * 32}"


def entry(**changes: Any) -> dict[str, Any]:
    """A good one; None leaves a key out."""
    fields = {"name": "shop", "hash": HASH, "scopes": ["write"], **changes}
    return {key: value for key, value in fields.items() if value is not None}


def problems(*entries: object) -> list[str]:
    """What is wrong with a file of these."""
    with pytest.raises(ConfigRefused) as caught:
        parse_tokens(json.dumps(entries).encode())
    return caught.value.problems


# The file


def test_tokens_are_random_and_long() -> None:
    """Nobody guesses 256 bits, which is why one fast hash will do."""
    tokens = {new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(re.fullmatch(rf"{PREFIX}[A-Za-z0-9_-]{{43}}", token) for token in tokens)


def test_what_is_made_is_read() -> None:
    """By its hash; the text of the token is nowhere in the file."""
    token = new_token()
    made = entry_of(
        token, name="grafana", scopes=[Scope.READ, Scope.WRITE], limit="5/10 seconds", expires="1970-01-02T01:00+01:00"
    )
    content = json.dumps([made]).encode()

    [(digest, found)] = parse_tokens(content).by_digest.items()

    assert digest == digest_of(token)
    assert found.name == "grafana"
    assert found.scopes == {Scope.READ, Scope.WRITE}
    assert (found.own_limit, found.limit, found.expires) == (True, Rate(5, 10), 86_400)
    assert token.removeprefix(PREFIX).encode() not in content


def test_it_is_json5() -> None:
    """As the cluster file."""
    content = f"[ // whose\n {{name: 'shop', hash: '{HASH}', scopes: ['write'], limit: 'none'}}, ]"

    [found] = parse_tokens(content.encode()).by_digest.values()

    assert (found.own_limit, found.limit, found.expires) == (True, None, None)


def test_no_token_is_a_file_too() -> None:
    """Then nobody comes in."""
    assert parse_tokens(b"[]").by_digest == {}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("x", '[0]: must be an object with "name", "hash" and "scopes"'),
        (entry(name=None), "[0].name: a name has 1 to 64 of A-Z a-z 0-9 _ . -"),
        (entry(name="a b"), "[0].name: a name has 1 to 64 of A-Z a-z 0-9 _ . -"),
        (entry(hash=None), '[0].hash: must be "sha256:" and 64 lower-case hex digits'),
        (entry(hash="tsl_secret"), '[0].hash: must be "sha256:" and 64 lower-case hex digits'),
        (entry(hash=HASH.upper()), '[0].hash: must be "sha256:" and 64 lower-case hex digits'),
        (entry(scopes=[]), '[0].scopes: must be a list of at least one of "write", "read", "admin"'),
        (entry(scopes=["write", "all"]), '[0].scopes: must be a list of at least one of "write", "read", "admin"'),
        (entry(scopes=[[]]), '[0].scopes: must be a list of at least one of "write", "read", "admin"'),
        (entry(limit="fast"), ("[0].limit: must be a number of requests in a span of at most a day, such as "
         '"1000/second", "100/minute" or "5/10 seconds", or "none"')),
        (entry(expires="soon"), ('[0].expires: must be a date or date-time such as "2027-01-01" or '
         '"2027-01-01T12:00:00" (UTC unless it has an offset)')),
        (entry(token="tsl_x"), "[0].token: unknown key; known: name, hash, scopes, limit, expires"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(wrong: object, told: str) -> None:
    """And never with what may be a token."""
    assert problems(wrong) == [f"tokens-file: {told}"]


def test_all_problems_are_told_at_once() -> None:
    """With those that are only seen between entries."""
    assert problems(entry(), entry(), entry(name="other", scopes="write")) == [
        'tokens-file: [1].name: "shop" is the name of another entry already',
        'tokens-file: [1].hash: is that of "shop" already',
        'tokens-file: [2].scopes: must be a list of at least one of "write", "read", "admin"',
        'tokens-file: [2].hash: is that of "shop" already',
    ]


@pytest.mark.parametrize("content", [b"{}", b'"x"', json.dumps([entry()] * (TOKENS_MAX + 1)).encode()])
def test_it_is_a_list_of_bounded_length(content: bytes) -> None:
    """Anything else is another file, given by mistake."""
    with pytest.raises(ConfigRefused, match=r"must be a list of at most 10000 entries"):
        parse_tokens(content)


def test_a_key_given_twice_is_refused() -> None:
    """One of the two would silently win."""
    with pytest.raises(ConfigRefused, match=r"\[0\]\.scopes: is given twice"):
        parse_tokens(f'[{{"name":"a","hash":"{HASH}","scopes":["read"],"scopes":["admin"]}}]'.encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from([HASH, "write"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.lists(st.dictionaries(st.sampled_from(["name", "hash", "scopes", "limit", "expires", "x"]), values)))
def test_any_entries_are_read_or_refused(entries: list[dict[str, Any]]) -> None:
    """With no other error."""
    try:
        tokens = parse_tokens(json.dumps(entries).encode())
    except ConfigRefused as error:
        assert error.problems  # noqa: PT017 - both ends are good
    else:
        assert len(tokens.by_digest) == len(entries)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_read_or_refused(content: bytes) -> None:
    """Likewise."""
    try:
        assert parse_tokens(content).by_digest == {}
    except ConfigRefused as error:
        assert error.problems  # noqa: PT017 - likewise


# Where it is


@pytest.mark.parametrize(("mode", "good"), [(0o600, True), (0o640, True), (0o644, False), (0o620, False)])
def test_others_may_not_read_or_change_it(tmp_path: Path, mode: int, *, good: bool) -> None:
    """0640 is how Kubernetes mounts it."""
    path = tmp_path / "tokens.json"
    path.write_bytes(b"[]")
    path.chmod(mode)
    config = cluster_config(tokens_file=str(path))

    if good:
        assert load_tokens(config) is not None
    else:
        with pytest.raises(ConfigRefused, match=f"has mode {mode:04o}, so others may read or change it; must be 0600"):
            load_tokens(config)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    """It is never made by itself: then it would be unclear who has tokens."""
    with pytest.raises(
        ConfigRefused, match='cannot be read: No such file or directory; make one with "tallyslice token'
    ):
        read_tokens(tmp_path / "tokens.json")


def test_none_is_asked_for_without_one() -> None:
    """Off by default."""
    assert load_tokens(cluster_config()) is None


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """It keeps its mode, and nothing is left beside it."""
    path = tmp_path / "tokens.json"
    write_entries(path, [])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)

    write_entries(path, [entry()])

    assert read_entries(path) == [entry()]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_tokens_file_is_not_written(tmp_path: Path) -> None:
    """The old one stays."""
    path = tmp_path / "tokens.json"
    write_entries(path, [entry()])

    with pytest.raises(ConfigRefused):
        write_entries(path, [entry(), entry()])

    assert read_entries(path) == [entry()]


# The command


def run(*arguments: str, code: int = 0) -> str:
    """What the command prints; both streams."""
    result = CliRunner().invoke(main, ["token", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_a_token_is_made_listed_and_revoked(tmp_path: Path) -> None:
    """It is shown once; the list has names."""
    file = f"--file={tmp_path / 'tokens.json'}"
    token = run("new", "shop", "--scope=write", "--scope", "read", "--limit=none", "--expires=2030-01-01", file).strip()
    run("new", "other", "--scope=admin", file)

    [first, _] = parse_tokens((tmp_path / "tokens.json").read_bytes()).by_digest.items()
    assert first[0] == digest_of(token)
    assert first[1].scopes == {Scope.WRITE, Scope.READ}
    listed = run("list", file)
    assert re.search(r"shop +write, read +none +2030-01-01", listed)
    assert "tsl_" not in listed
    run("revoke", "shop", file)
    assert "shop" not in run("list", file)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["new", "shop", "--scope=read"], 64, "has a token for shop already"),
        (["new", "x"], 64, "Missing option '--scope'"),
        (["new", "x", "--scope=all"], 64, "is not one of 'write', 'read', 'admin'"),
        (["new", "x", "--scope=read", "--limit=9"], 64, "must be a number of requests in a span"),
        (["new", "x", "--scope=read", "--expires=soon"], 64, "must be a date or date-time"),
        (["new", "a b", "--scope=read"], 78, "a name has 1 to 64 of"),
        (["revoke", "nobody"], 64, "has no token for nobody"),
        (["list", "--file=missing.json"], 78, "missing.json is not there"),
    ],
)
def test_what_cannot_be_done_says_why(tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    """And leaves the file as it was."""
    path = tmp_path / "tokens.json"
    write_entries(path, [entry()])
    if not any(argument.startswith("--file") for argument in arguments):
        arguments = [*arguments, f"--file={path}"]

    assert told in " ".join(run(*arguments, code=code).split())
    assert read_entries(path) == [entry()]


def test_tokens_made_at_once_are_all_in_the_file(tmp_path: Path) -> None:
    """Commands that run at the same time wait for each other: none writes the file without the other's token."""
    names = [f"client-{n}" for n in range(6)]
    command = [
        sys.executable,
        "-m",
        "tallyslice",
        "token",
        "new",
        "--scope",
        "read",
        "--file",
        str(tmp_path / "tokens.json"),
    ]
    running = [subprocess.Popen([*command, name], stdout=subprocess.PIPE) for name in names]
    made = [one.communicate()[0] for one in running]

    assert [one.returncode for one in running] == [0] * len(names)
    assert len(set(made)) == len(names)
    assert {entry["name"] for entry in read_entries(tmp_path / "tokens.json")} == set(names)
