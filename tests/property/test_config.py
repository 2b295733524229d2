"""No bytes make the reader of the cluster file raise anything but its refusal."""

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from common.config import parse_config
from common.errors import ConfigRefused
from tests.support.configs import FOLDER, ISSUE_EXAMPLE, cluster_fields

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.sampled_from("01"), inner),
    max_leaves=6,
)
KEYS = (
    "api-nodes", "worker-nodes", "length-of-time-slice", "first-slice", "routing", "registry", "event-types",
    "cache-ttl-seconds", "reload-seconds", "close-after-seconds", "max-slices", "secret-file", "tls", "compat", "other",
    "tokens-file", "rate-limits", "cors-origins", "trusted-proxies",
    "tracing",
)  # fmt: skip


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused(content):
    """None of them is a cluster."""
    try:
        parse_config(content, folder=FOLDER)
    except ConfigRefused as error:
        assert error.problems  # noqa: PT017 - that it raises is asserted below
    else:
        raise AssertionError


@given(st.dictionaries(st.sampled_from(KEYS), values, min_size=1))
def test_any_values_are_read_or_refused(changes):
    """With at least one problem told, and no other error."""
    content = json.dumps(cluster_fields() | changes).encode()
    with contextlib.suppress(ConfigRefused):
        assert parse_config(content, folder=FOLDER).version


@given(st.integers(0, len(ISSUE_EXAMPLE.rstrip()) - 1))
def test_a_half_written_file_is_refused(length):
    """However far the writer got."""
    with contextlib.suppress(ConfigRefused):
        parse_config(ISSUE_EXAMPLE[:length], folder=FOLDER)
        raise AssertionError
