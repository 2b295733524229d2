"""The cluster file is read whole and every problem told, as in common/config.py and common/json5.py."""

import json
from pathlib import Path

import pytest

from common import config as config_module
from common.config import RateLimits, is_loopback, listen_address, load_config, load_secret, load_token, parse_config
from common.cors import ORIGIN_FORM
from common.errors import ConfigRefused
from common.events import EventTypes
from common.json5 import with_line
from common.rates import RATE_FORM, Rate
from common.slices import parse_instant
from tests.support.configs import FOLDER, ISSUE_EXAMPLE, cluster_bytes, cluster_config, workers

EXAMPLE = 'an object such as {"certificate": "tls/{node}.crt", "key": "tls/{node}.key", "ca": "tls/ca.crt"}'
TRACED = 'an object such as {"endpoint": "http://localhost:4318/v1/traces", "sample-ratio": 0.01}'
NEEDED = "must be a URL such as http://localhost:4318/v1/traces, without user and password"
REPOSITORY = Path(__file__).parents[2]


def problems(content=None, **changes):
    """What is wrong with a file, or with the small good one after these changes."""
    with pytest.raises(ConfigRefused) as caught:
        parse_config(cluster_bytes(**changes) if content is None else content, folder=FOLDER)
    return caught.value.problems


def test_the_example_of_the_issue_loads():
    """Comments and all."""
    config = parse_config(ISSUE_EXAMPLE, folder=FOLDER)

    assert config.api_nodes == {"0": "http://localhost:8000/analytics", "1": "http://localhost:8001/analytics"}
    assert list(config.worker_nodes) == ["0", "1", "2", "3"]
    assert config.length_of_time_slice == 3600
    assert config.first_slice == parse_instant("2017-05-20T00:00:00Z")
    assert [entry.slice for entry in config.routing] == [0, 1, 3, 100]
    assert config.routing[2].nodes == ("0", "1", "2", "3")


def test_what_the_file_leaves_out_has_its_default():
    """As the table "Cluster file" has it."""
    config = cluster_config()

    assert config.registry == "0"
    assert config.event_types == EventTypes(frozenset({"click", "impression"}))
    assert (config.cache_ttl_seconds, config.reload_seconds) == (1, 30)
    assert (config.close_after_seconds, config.close_grace_seconds) == (None, 86400)
    assert (config.max_future_seconds, config.max_past_seconds, config.max_slices) == (86400, None, 100_000)
    assert (config.secret_file, config.internal_token_file, config.compat) == (FOLDER / "secret.key", None, None)


def test_what_the_file_says_is_read():
    """Every key."""
    config = cluster_config(
        registry="1",
        event_types=["click", "sale"],
        cache_ttl_seconds=0,
        reload_seconds=0.5,
        close_after_seconds=10,
        close_grace_seconds=0,
        max_future_seconds=60,
        max_past_seconds=3600.5,
        max_slices=10,
        secret_file="/run/secret",
        internal_token_file="keys/token",
        tls={"certificate": "{node}.crt", "key": "/run/{node}.key", "client-ca": "ca.crt"},
        compat="rt",
    )

    assert config.registry == "1"
    assert config.event_types == EventTypes(frozenset({"click", "sale"}))
    assert (config.cache_ttl_seconds, config.reload_seconds) == (0, 0.5)
    assert (config.close_after_seconds, config.close_grace_seconds) == (10, 0)
    assert (config.max_future_seconds, config.max_past_seconds, config.max_slices) == (60, 3600.5, 10)
    assert (config.secret_file, config.internal_token_file) == (Path("/run/secret"), FOLDER / "keys/token")
    assert config.compat == "rt"
    assert config.tls is not None
    assert config.tls.of("api-0").paths() == (FOLDER / "api-0.crt", Path("/run/api-0.key"), None, FOLDER / "ca.crt")


@pytest.mark.parametrize(
    ("tls", "told"),
    [
        (None, 'tls: is missing; "https://localhost:9000/worker" needs {"certificate": a path, "key": a path}'),
        ("ca.crt", f'tls: must be {EXAMPLE} or null, not "ca.crt"'),
        ({"certificate": "a"}, "tls.key: must be a path, relative to this file"),
        ({"certificate": "a", "key": 1}, "tls.key: must be a path, relative to this file, not 1"),
        ({"certificate": "a", "key": "b", "ca": ""}, 'tls.ca: must be a path, relative to this file or null, not ""'),
        ({"certificate": "a", "key": "b", "cert": "c"},
         'tls.cert: unknown key; known: "certificate", "key", "ca", "client-ca"'),
    ],
)  # fmt: skip
def test_an_https_url_needs_a_certificate_and_its_key(tls, told):
    """Each thing that is wrong with them is told with its path."""
    assert problems(worker_nodes={"0": "https://localhost:9000/worker"}, tls=tls) == [told]


def test_who_may_call_is_read():
    """Rates as numbers, proxies as networks, and what is left out is no limit."""
    config = cluster_config(
        tokens_file="tokens.json",
        rate_limits={"per-token": "5/10 seconds"},
        cors_origins=["https://a.example", "http://localhost:8080"],
        trusted_proxies=["10.0.0.0/8", "::1"],
    )

    assert config.tokens_file == FOLDER / "tokens.json"
    assert config.rate_limits == RateLimits(per_token=Rate(5, 10))
    assert config.cors_origins == ("https://a.example", "http://localhost:8080")
    assert [str(one) for one in config.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert cluster_config(cors_origins="*").cors_origins == ("*",)


@pytest.mark.parametrize(
    ("tracing", "told"),
    [
        ("on", f'tracing: must be {TRACED} or null, not "on"'),
        ({}, f"tracing.endpoint: {NEEDED}"),
        ({"endpoint": "http://user:secret@x/"}, f"tracing.endpoint: {NEEDED}"),
        ({"endpoint": "http://x:99999/"}, f"tracing.endpoint: {NEEDED}"),
        ({"endpoint": "http://x/", "sample-ratio": 2}, "tracing.sample-ratio: must be a number from 0 to 1, not 2"),
        ({"endpoint": "http://x/", "ratio": 1}, 'tracing.ratio: unknown key; known: "endpoint", "sample-ratio"'),
    ],
)  # fmt: skip
def test_tracing_needs_an_endpoint(tracing, told):
    """Which is not shown: it may have a password."""
    assert problems(tracing=tracing) == [told]


def test_a_hundredth_is_traced_unless_the_file_says_otherwise():
    """Off if it says nothing."""
    assert cluster_config().tracing is None
    found = cluster_config(tracing={"endpoint": "https://x/v1/traces"}).tracing
    assert found is not None
    assert (found.endpoint, found.sample_ratio) == ("https://x/v1/traces", 0.01)


def test_null_stands_for_the_default_where_that_is_null():
    """And for nothing else."""
    text = json.dumps(json.loads(cluster_bytes()) | dict.fromkeys(
        ("close-after-seconds", "max-past-seconds", "internal-token-file", "tls", "tracing", "compat",
         "reload-seconds"))
    )  # fmt: skip

    assert problems(text.encode()) == ["reload-seconds: must be a number from 0.01 to 86400, not null"]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2017-05-20T00:00:00Z", "2017-05-20T00:00:00Z"),
        ("2017-05-20T02:00:00+02:00", "2017-05-20T00:00:00Z"),
        ("2017-05-20", "2017-05-20T00:00:00Z"),
        ("2017-05-20T00:00:00.000001", "2017-05-20T00:00:00.000001Z"),
    ],
)
def test_the_first_slice_is_utc_unless_it_has_an_offset(text, instant):
    """To the microsecond."""
    assert cluster_config(first_slice=text).first_slice == parse_instant(instant)


def test_system_and_any_are_words_of_their_own():
    """None stands for them in the config."""
    assert cluster_config(first_slice="system").first_slice is None
    assert cluster_config(event_types="any").event_types == EventTypes(None)


def test_routing_may_be_written_in_any_order():
    """It is read in ascending order of slice."""
    config = cluster_config(routing=[{"slice": 5, "nodes": ["1"]}, {"slice": -5, "nodes": ["0"]}])

    assert [entry.slice for entry in config.routing] == [-5, 5]


def test_a_trailing_slash_of_a_url_is_dropped():
    """Everything else stays as it is written."""
    config = cluster_config(api_nodes={"a": "http://[::1]:8000/analytics/"})

    assert config.api_nodes == {"a": "http://[::1]:8000/analytics"}


def test_the_version_names_the_bytes():
    """Another comment is another version."""
    one, other = (
        parse_config(content, folder=FOLDER).version for content in (cluster_bytes(), cluster_bytes() + b"//")
    )

    assert one != other
    assert one == cluster_config().version


def test_every_problem_is_told_at_once_with_its_path_and_what_is_allowed():
    """Whoever edits a file should not have to try one error at a time."""
    content = b"""{
        rooting: [], whatever: 1,
        "api-nodes": { "0": "http://a:1/analytics", "0": "http://b:1/analytics", "a b": "ftp://x/analytics" },
        "worker-nodes": { "0": "http://b:1/worker", "1": "http://b:2/analytics" },
        "length-of-time-slice": 0,
        routing: [
            { slice: 0, nodes: [] },
            { slice: 0, nodes: ["0", "0", 3] },
            { slice: 1.5, nodes: ["0", "7"], x: 1 },
            7,
        ],
        "event-types": ["click", "user", "click", 7],
        "max-slices": 1.5,
        compat: "old",
    }"""

    assert problems(content) == [
        'api-nodes["0"]: is given twice; once is allowed',
        'rooting: unknown key; did you mean "routing"?',
        ('whatever: unknown key; known: "api-nodes", "worker-nodes", "length-of-time-slice", "first-slice", "routing", '
        '"registry", "event-types", "cache-ttl-seconds", "reload-seconds", "close-after-seconds", '
        '"close-grace-seconds", '
        '"max-future-seconds", "max-past-seconds", "max-slices", "spool-max-bytes", "spool-max-age-seconds", '
        '"secret-file", "internal-token-file", "tls", "tracing", "tokens-file", "rate-limits", "cors-origins", '
        '"trusted-proxies", "compat"'),
        'api-nodes["a b"]: an id has 1 to 64 of A-Z a-z 0-9 _ . -',
        ('api-nodes["a b"]: must be a URL such as http://localhost:8000/analytics; '
        'the scheme must be http or https, not "ftp"'),
        'worker-nodes["0"]: b:1 is taken by api-nodes["0"]; each node needs an address of its own',
        ('worker-nodes["1"]: must be a URL such as http://localhost:8000/worker; '
        'the path must be /worker, not "/analytics"'),
        "length-of-time-slice: must be a whole number from 1 to 3162240000, not 0",
        ('first-slice: is missing; must be "system" or an ISO date-time such as "2017-05-20T00:00:00" '
        "(UTC unless it has an offset)"),
        "routing[0].nodes: must be a list of 1 to 1024 worker ids, not []",
        'routing[1].nodes[1]: worker "0" is named already; each may be named once',
        'routing[1].nodes[2]: no worker 3; known: "0", "1"',
        "routing[1].slice: slice 0 has an entry already; one is allowed",
        'routing[2].x: unknown key; known: "slice", "nodes"',
        'routing[2].nodes[1]: no worker "7"; known: "0", "1"',
        "routing[2].slice: must be a whole number of 64 bits, not 1.5",
        'routing[3]: must be an object with "slice" and "nodes", not 7',
        ('event-types[1]: "user" is not an event type; '
        "allowed: 1 to 64 of A-Z a-z 0-9 _ . : - that are no reserved word"),
        'event-types[2]: "click" is named already; each may be named once',
        "event-types[3]: 7 is not an event type; allowed: 1 to 64 of A-Z a-z 0-9 _ . : - that are no reserved word",
        "max-slices: must be a whole number from 1 to 100000000, not 1.5",
        'compat: must be "rt" or null, not "old"',
    ]  # fmt: skip


def test_the_required_keys_are_required():
    """Each is told with what it must be."""
    assert [problem.split(";")[0] for problem in problems(b"{}")] == [
        "api-nodes: is missing",
        "worker-nodes: is missing",
        "length-of-time-slice: is missing",
        "first-slice: is missing",
        "routing: is missing",
    ]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (7, ", not 7"),
        ("", ', not ""'),
        ("http://a b:1/analytics", ', not "http://a b:1/analytics"'),
        ("http://\u00e4:1/analytics", ', not "http://\u00e4:1/analytics"'),
        ("http://a:99999/analytics", " with a port from 1 to 65535"),
        ("http://[::1/analytics", " with a port from 1 to 65535"),
        ("http://a:0/analytics", ' with a host and a port from 1 to 65535, not "http://a:0/analytics"'),
        ("http://:80/analytics", ' with a host and a port from 1 to 65535, not "http://:80/analytics"'),
        ("http://me:secret@a:1/analytics", "; a user or password is not allowed"),
        ("a:1/analytics", '; the scheme must be http or https, not "a"'),
        ("http://a:1/analytics?", '; a query or fragment is not allowed, as in "http://a:1/analytics?"'),
        ("http://a:1/analytics#x", '; a query or fragment is not allowed, as in "http://a:1/analytics#x"'),
        ("http://a:1", '; the path must be /analytics, not ""'),
        ("http://a:1/worker", '; the path must be /analytics, not "/worker"'),
    ],
)
def test_what_is_no_url_of_a_node_is_refused(url, problem):
    """And a password that stands in one is not shown."""
    assert problems(api_nodes={"0": url}) == [
        f'api-nodes["0"]: must be a URL such as http://localhost:8000/analytics{problem}'
    ]


def test_two_nodes_cannot_listen_at_one_address():
    """Whatever the case of the host, and with the scheme's port where none is given."""
    assert problems(worker_nodes={"0": "http://a/worker", "1": "http://A:80/worker"}) == [
        'worker-nodes["1"]: a:80 is taken by worker-nodes["0"]; each node needs an address of its own'
    ]


@pytest.mark.parametrize("name", ["", "x" * 65, "a/b", "a b", "é", "a\n"])
def test_an_id_is_of_a_safe_alphabet(name):
    """It becomes part of a folder's name."""
    assert problems(api_nodes={name: "http://a:1/analytics"}) == [
        f"api-nodes[{json.dumps(name, ensure_ascii=False)}]: an id has 1 to 64 of A-Z a-z 0-9 _ . -"
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"length-of-time-slice": 60.0}, "length-of-time-slice: must be a whole number from 1 to 3162240000, not 60.0"),
        ({"length-of-time-slice": True}, "length-of-time-slice: must be a whole number from 1 to 3162240000, not true"),
        ({"length-of-time-slice": "60"}, 'length-of-time-slice: must be a whole number from 1 to 3162240000, not "60"'),
        ({"cache-ttl-seconds": -1}, "cache-ttl-seconds: must be a number from 0 to 86400, not -1"),
        ({"cache-ttl-seconds": float("nan")}, "cache-ttl-seconds: must be a number from 0 to 86400, not NaN"),
        ({"reload-seconds": 0}, "reload-seconds: must be a number from 0.01 to 86400, not 0"),
        (
            {"max-past-seconds": float("inf")},
            "max-past-seconds: must be a number from 0 to 316224000000 or null, not Infinity",
        ),
        ({"max-slices": 0}, "max-slices: must be a whole number from 1 to 100000000, not 0"),
        ({"registry": "9"}, 'registry: no worker "9"; known: "0", "1"'),
        ({"registry": 0}, 'registry: no worker 0; known: "0", "1"'),
        ({"routing": []}, 'routing: must be a list of entries such as {"slice": 0, "nodes": ["0"]}, not []'),
        ({"routing": {}}, 'routing: must be a list of entries such as {"slice": 0, "nodes": ["0"]}, not {}'),
        (
            {"routing": [{"slice": True, "nodes": ["0"]}]},
            "routing[0].slice: must be a whole number of 64 bits, not true",
        ),
        (
            {"routing": [{"slice": 1 << 63, "nodes": ["0"]}]},
            "routing[0].slice: must be a whole number of 64 bits, not 9223372036854775808",
        ),
        ({"event-types": []}, 'event-types: must be "any" or a list of 1 to 256 names, not []'),
        ({"event-types": "click"}, 'event-types: must be "any" or a list of 1 to 256 names, not "click"'),
        ({"secret-file": ""}, 'secret-file: must be a path, relative to this file, not ""'),
        ({"internal-token-file": 7}, "internal-token-file: must be a path, relative to this file or null, not 7"),
        ({"tokens-file": []}, "tokens-file: must be a path, relative to this file or null, not []"),
        (
            {"rate-limits": "9/second"},
            (
                'rate-limits: must be an object such as {"per-token": "1000/second", "per-address": "100/second"} '
                'or null, not "9/second"'
            ),
        ),
        (
            {"rate-limits": {"per-user": "9/second"}},
            'rate-limits.per-user: unknown key; known: "per-token", "per-address"',
        ),
        (
            {"rate-limits": {"per-token": "0/second"}},
            f'rate-limits.per-token: must be {RATE_FORM}, or null, not "0/second"',
        ),
        (
            {"cors-origins": "https://a.example"},
            'cors-origins: must be "*" or a list of at most 1000 origins, not "https://a.example"',
        ),
        ({"cors-origins": ["https://a.example/"]}, f'cors-origins[0]: must be {ORIGIN_FORM}, not "https://a.example/"'),
        (
            {"trusted-proxies": "10.0.0.1"},
            'trusted-proxies: must be a list of at most 1000 addresses or networks, not "10.0.0.1"',
        ),
        (
            {"trusted-proxies": ["10.0.0.1/8"]},
            (
                'trusted-proxies[0]: must be an address such as "10.0.0.7" or a network such as "10.0.0.0/8" '
                'without bits behind its length, not "10.0.0.1/8"'
            ),
        ),
    ],
)
def test_a_value_out_of_bounds_is_refused(changes, problem):
    """With the bounds."""
    assert problems(**changes) == [problem]


@pytest.mark.parametrize("text", ["yesterday", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "System"])
def test_a_first_slice_that_is_no_instant_is_refused(text):
    """Nor one outside the years that can be shown."""
    assert problems(first_slice=text) == [
        (
            'first-slice: must be "system" or an ISO date-time such as "2017-05-20T00:00:00" '
            f'(UTC unless it has an offset), not "{text}"'
        )
    ]


def test_at_most_256_event_types_are_accepted():
    """More would not fit the byte that names them in a batch."""
    assert len(cluster_config(event_types=[f"t{at}" for at in range(256)]).event_types.accepted or ()) == 256
    assert problems(event_types=[f"t{at}" for at in range(257)])[0].startswith(
        'event-types: must be "any" or a list of 1 to 256 names, not ["t0", '
    )


def test_long_lists_and_values_are_cut():
    """A message stays a line or two."""
    many = workers(*map(str, range(40)))
    [unknown] = problems(worker_nodes=many, registry="x" * 200)

    assert unknown.startswith('registry: no worker "xxx')
    assert unknown.endswith('"29" and 10 more')
    assert len(unknown) < 400


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is not JSON5: line 1: No JSON data found"),
        (b'{\n"a": 1,\n', "the file is not JSON5: line 1: Unclosed 'object'"),
        (b'{\n"a": 1} 7', "the file is not JSON5: line 2: Extra data U+0037"),
        (b"\xff", "the file is not UTF-8: byte 0 cannot be read"),
        (b"[]", "the file must be one object, not []"),
        (b"[" * 10_000, "the file is not JSON5: line 1: Maximum nesting level exceeded"),
        (b"{a: " + b"1" * 10_000 + b" }", "the file is not JSON5: line 1: Unclosed 'NumericLiteral'"),
    ],
)
def test_what_is_no_json5_object_is_refused_with_its_line(content, problem):
    """A half-written file is one of these."""
    assert problems(content) == [problem]


def test_a_number_too_long_to_print_is_refused_all_the_same():
    """In hexadecimal it can be read, but not shown."""
    content = cluster_bytes().removesuffix(b"}") + b", compat: 0x" + b"f" * 10_000 + b"}"

    assert problems(content) == ['compat: must be "rt" or null, not a number of too many digits']


def test_keys_given_twice_are_found_however_they_are_written():
    """Quoted, bare or with escapes, between comments, in nested objects; equal keys of two objects are two keys."""
    content = b"""\xef\xbb\xbf{ // {"a": 1, "a": 2}
        a: [{b: "}{", 'c\\'"': 1, "c'\\"": 2}, [{x: 1}, {x: 1}, {/* , */ x: 1/**/, "\\u0078": /.../ 1}]],
    }""".replace(b"/.../", b"")

    assert [problem for problem in problems(content) if "twice" in problem] == [
        'a[0]["c\'\\""]: is given twice; once is allowed',
        "a[1][2].x: is given twice; once is allowed",
    ]


def test_an_error_of_the_parser_without_a_place_is_passed_on():
    """Whatever pyjson5 may come to say."""
    assert with_line("Something else", "text") == "Something else"


@pytest.mark.parametrize(
    ("url", "address", "loopback"),
    [
        ("http://localhost:8000/analytics", ("localhost", 8000), True),
        ("http://127.0.0.1/analytics", ("127.0.0.1", 80), True),
        ("https://[::1]/analytics", ("::1", 443), True),
        ("http://10.0.0.1:9000/worker", ("10.0.0.1", 9000), False),
        ("http://Worker-0.local:9000/worker", ("worker-0.local", 9000), False),
    ],
)
def test_a_node_listens_where_its_url_says(url, address, loopback):
    """And a loopback URL is one that no other machine can reach."""
    assert listen_address(url) == address
    assert is_loopback(url) is loopback


def test_a_file_is_loaded_with_paths_relative_to_it():
    """etc/cluster.json is good."""
    config = load_config(REPOSITORY / "etc" / "cluster.json")

    assert config.secret_file == REPOSITORY / "etc" / "secret.key"


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    """So is one that is far too large."""
    with pytest.raises(ConfigRefused, match="cannot be read: No such file"):
        load_config(tmp_path / "none.json")
    with pytest.raises(ConfigRefused, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (config_module.FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigRefused, match="is larger than 4194304 bytes"):
        load_config(large)


def local(folder, **changes):
    """A cluster on this machine whose file stands in the folder."""
    return parse_config(cluster_bytes(**changes), folder=folder)


def test_a_missing_secret_is_made_where_the_whole_cluster_is_on_this_machine(tmp_path):
    """Once, readable by nobody else; and nothing else is left in the folder."""
    secret = load_secret(local(tmp_path))

    assert len(secret) == 32
    assert load_secret(local(tmp_path)) == secret
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secret.key").read_text() == secret.hex() + "\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret.key"]


def test_nodes_that_start_together_read_one_secret(tmp_path):
    """The one whose file came first; the other's is dropped."""
    path = tmp_path / "secret.key"
    config_module.make_secret(path)
    first = path.read_text()
    config_module.make_secret(path)

    assert path.read_text() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret.key"]


def test_a_missing_secret_is_refused_where_a_node_is_elsewhere(tmp_path):
    """Each node would make its own; the message says what to do."""
    config = local(tmp_path, api_nodes={"0": "http://10.0.0.1:8000/analytics"})

    with pytest.raises(ConfigRefused, match="openssl rand -hex 32"):
        load_secret(config)
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_cannot_be_made_is_refused(tmp_path):
    """A folder that is not there is not made."""
    with pytest.raises(
        ConfigRefused, match=r"secret-file: .*none/secret.key cannot be read: No such file or directory$"
    ):
        load_secret(local(tmp_path, **{"secret-file": "none/secret.key"}))


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "xy" * 32, "ab" * 32 + "\nab"])
def test_a_secret_of_another_form_is_refused(tmp_path, text):
    """64 hex digits; the message does not show what is there."""
    path = tmp_path / "secret.key"
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(ConfigRefused, match=r"secret.key must hold 64 hex digits"):
        load_secret(local(tmp_path))


@pytest.mark.parametrize(
    ("mode", "fine"), [(0o600, True), (0o400, True), (0o440, True), (0o644, False), (0o620, False)]
)
def test_a_secret_that_others_may_read_is_refused(tmp_path, mode, fine):
    """The group may read it, as Kubernetes mounts it."""
    path = tmp_path / "secret.key"
    path.write_text("AB" * 32)
    path.chmod(mode)

    if fine:
        assert load_secret(local(tmp_path)) == b"\xab" * 32
    else:
        with pytest.raises(ConfigRefused, match=f"has mode 0{mode:o}, so others may read it"):
            load_secret(local(tmp_path))


def test_a_token_is_read_where_the_config_names_a_file(tmp_path):
    """Without the newline that editors add."""
    (tmp_path / "token").write_text("t0ken\n")

    assert load_token(local(tmp_path)) is None
    assert load_token(local(tmp_path, internal_token_file="token")) == "t0ken"


@pytest.mark.parametrize("text", ["", "two words", "é", "x" * 4097])
def test_what_is_no_token_is_refused(tmp_path, text):
    """It must fit a header."""
    (tmp_path / "token").write_text(text)

    with pytest.raises(ConfigRefused, match="must hold 1 to 4096 visible ASCII characters"):
        load_token(local(tmp_path, internal_token_file="token"))


def test_a_token_file_that_cannot_be_read_is_refused(tmp_path):
    """The node would be open, or shut, to all."""
    with pytest.raises(ConfigRefused, match=r"internal-token-file: .* cannot be read"):
        load_token(local(tmp_path, internal_token_file="token"))
