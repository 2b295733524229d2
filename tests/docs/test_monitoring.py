"""What deploy/ has for Prometheus and Grafana speaks of what there is, and the pages speak of it."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import load_config
from tests.support.needs import program
from tests.support.pages import ROOT, tables

PROMETHEUS, GRAFANA = ROOT / "deploy/prometheus", ROOT / "deploy/grafana"
OPERATIONS = ROOT / "docs/operations.md"
TESTS = sorted(PROMETHEUS.glob("*_test.yml"))

_SUFFIX = re.compile(r"_(bucket|count|sum)$")
# Names that Prometheus itself makes.
_ITS_OWN = {"up", "ALERTS"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """The rules of a kind (``alert`` or ``record``), by name."""
    found = [
        rule
        for name in read(PROMETHEUS / "prometheus.yml")["rule_files"]
        for group in read(PROMETHEUS / name)["groups"]
        for rule in group["rules"]
        if kind in rule
    ]
    by_name = {rule[kind]: rule for rule in found}
    assert len(by_name) == len(found)
    return by_name


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "dashboards/tallyslice.json").read_text())
    return found


def targets() -> list[str]:
    """Every query of the dashboard."""
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    variables = [one["query"]["query"] for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    return [*asked, *(one["expr"] for one in dashboard()["annotations"]["list"]), *variables]


def names_in(query: str) -> set[str]:
    """The metrics that a query asks for."""
    bare = re.sub(r'"[^"]*"', '""', query)
    found = set(re.findall(r"\b(?:tallyslice|process|python)_\w+|\b\w+:[\w:]+|\bup\b|\bALERTS\b", bare))
    return {one for one in found if ":" in one or not any(f":{one}" in other for other in found)}


@pytest.mark.parametrize("where", ["rules", "dashboard"])
def test_every_metric_that_is_asked_for_is_documented(where: str) -> None:
    """Or recorded by a rule; a histogram by its buckets, count and sum."""
    table = next(table for table in tables(OPERATIONS) if table.heads[0] == "metric")
    kinds = {name: row[2] for name, row in zip(table.names(), table.rows, strict=True)}
    known = {name for name, kind in kinds.items() if kind != "histogram"} | rules("record").keys() | _ITS_OWN
    histograms = {name for name, kind in kinds.items() if kind == "histogram"}
    every = [*rules("record").values(), *rules("alert").values()]
    queries = targets() if where == "dashboard" else [rule["expr"] for rule in every]
    asked = set().union(*map(names_in, queries))

    assert len(asked) > 20
    assert {
        name for name in asked - known if not (_SUFFIX.search(name) and _SUFFIX.sub("", name) in histograms)
    } == set()


def test_every_alert_is_documented() -> None:
    """With its severity; and its runbook is a section that there is."""
    table = next(table for table in tables(OPERATIONS) if table.heads[0] == "alert")

    assert list(zip(table.names(), (row[1] for row in table.rows), strict=True)) == [
        (name, rule["labels"]["severity"]) for name, rule in rules("alert").items()
    ]
    for name, rule in rules("alert").items():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, name
        assert name.startswith("Tallyslice")
        assert rule["annotations"]["summary"]


def test_every_rule_has_a_test() -> None:
    """Of each alert, one in which it fires and one in which it is silent."""
    tests = [test for path in TESTS for test in read(path)["tests"]]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    queries = [case["expr"] for test in tests for case in test.get("promql_expr_test", ())]

    assert {case["alertname"] for case in cases if case["exp_alerts"]} == rules("alert").keys()
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == rules("alert").keys()
    assert {query.partition("{")[0] for query in queries} == rules("record").keys()


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["test", "rules", *(path.name for path in TESTS)]],
    ids=["config", "rules"],
)
def test_promtool_agrees(arguments: list[str]) -> None:
    """The configuration can be used; each rule says what its test wants, when it wants it."""
    promtool = program("promtool", package="prometheus")
    done = subprocess.run(
        [promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=100
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_scrapes_the_example_cluster() -> None:
    """Every node of etc/cluster.json is a target of its job."""
    config = load_config(ROOT / "etc/cluster.json")
    jobs = {
        job["job_name"]: job["static_configs"][0]["targets"]
        for job in read(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    }

    assert jobs == {
        name: [url.split("/")[2] for url in nodes.values()]
        for name, nodes in (("tallyslice-api", config.api_nodes), ("tallyslice-worker", config.worker_nodes))
    }


def test_the_dashboard_is_tidy() -> None:
    """Each panel says what it shows, in which unit, from the chosen Prometheus; none lies over another."""
    panels = dashboard()["panels"]
    places: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & places, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        places |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert {one["datasource"]["uid"] for one in [panel, *panel["targets"]]} == {"${datasource}"}

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert [one["name"] for one in dashboard()["templating"]["list"]] == ["datasource", "job", "instance"]


def test_the_provisioning_can_be_read() -> None:
    """Parsed, no more: there is no Grafana here."""
    source = read(GRAFANA / "provisioning/datasources/prometheus.yml")["datasources"][0]
    provider = read(GRAFANA / "provisioning/dashboards/tallyslice.yml")["providers"][0]

    assert (source["type"], source["url"]) == ("prometheus", "http://localhost:9090")
    assert source["jsonData"]["timeInterval"] == read(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
    assert (provider["type"], provider["folder"]) == ("file", "Tallyslice")
