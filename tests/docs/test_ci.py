"""CI installs what the tests need of Debian: there nothing is skipped."""

from __future__ import annotations

import re

from tests.support.pages import ROOT

ESSENTIAL = {"util-linux"}  # every Debian has them


def test_ci_installs_every_package_that_a_test_asks_for() -> None:
    """Whatever ``needs.program`` names is in the list of .ci/run."""
    (listed,) = re.findall(r"packages=\((.*?)\n    \)", (ROOT / ".ci/run").read_text(), re.DOTALL)
    installed = {word for line in listed.splitlines() for word in line.partition("#")[0].split()}
    asked = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r'program\([^()]*package="([^"]+)"', path.read_text())
    }

    assert asked - installed == ESSENTIAL
