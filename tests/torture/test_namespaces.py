"""A worker on another host, and the link to it fails: nothing is lost, nothing counted twice, nobody waits for long."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.needs import missing
from tests.torture.namespaces import Link, Loss, Refused, namespace_round
from tests.torture.rounds import EXIT_KEPT, report

pytestmark = [pytest.mark.e2e]


@pytest.fixture(autouse=True)
def namespaces() -> None:
    """Skips, with the reason, where there are none to be had."""
    try:
        with Link():
            pass
    except Refused as refused:
        missing(f"no network namespace: {refused}")


@pytest.mark.timeout(150)
async def test_every_loss_once(tmp_path: Path) -> None:
    """Link down, requests lost, replies lost: the spool takes over, and all is delivered and counted once."""
    found = await namespace_round(tmp_path, seed=1)
    text, code = report([found])

    assert code == EXIT_KEPT, text
    assert found.faults == {loss.value: 1 for loss in Loss}, text
    assert found.acknowledged == found.counted == found.sent, text


def test_nothing_of_a_link_is_left() -> None:
    """Whatever happens inside."""

    def seen() -> str:
        calls = (["ip", "netns"], ["ip", "-o", "link"], ["ip", "-4", "route", "show", "table", "all"])
        return "".join(subprocess.run(call, check=True, capture_output=True, text=True).stdout for call in calls)

    names: list[str] = []
    during: list[str] = []

    def use() -> None:
        with Link() as link, link.loses(Loss.REQUESTS):
            names.extend((link.namespace, link.near.name, str(link.near.address)))
            during.append(seen())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()

    after = seen()
    assert [name for name in names if name not in during[0]] == []
    assert [name for name in names if name in after] == []
