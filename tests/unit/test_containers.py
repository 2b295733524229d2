"""What is in ``deploy/`` for containers: as far as it can be tested where there is no engine, and no Kubernetes.

The chart is rendered by hand (``deploy/helm/render``); that what is looked at here was made of it is tested too.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from zipfile import ZipFile

import pytest
import yaml
from click.testing import CliRunner

from common.config import ClusterConfig, load_config
from tallyslice.check_config import check_config
from tests.support.needs import program
from tests.support.package import build
from tests.support.pages import ROOT

DOCKER, HELM = ROOT / "deploy/docker", ROOT / "deploy/helm"
DOCKERFILE = DOCKER / "Dockerfile"
PORT = 8080  # of every node in a container
TOKEN, SECRET = "internal.token", "secret.key"


def good(file: Path) -> ClusterConfig:
    """What a cluster file means, which ``tallyslice check-config`` accepts."""
    result = CliRunner().invoke(check_config, [str(file)])

    assert result.exit_code == 0, result.output
    return load_config(file)


# --- the image


def instructions() -> list[tuple[str, str]]:
    """Word and rest of each instruction."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in text.splitlines() if line]


def test_hadolint_finds_nothing_wrong() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", DOCKERFILE],
        check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_what_runs_in_the_image() -> None:
    """Not root, without a shell that would keep signals from the node, from hash-checked packages, with no secret."""
    found = instructions()
    last = found[max(at for at, (word, _) in enumerate(found) if word == "FROM") :]
    words = dict(last)
    installs = [line for word, line in found if word == "RUN" and "install -" in line]

    assert words["USER"] == "10001:10001"
    assert json.loads(words["ENTRYPOINT"]) == ["python", "-P", "-m"]
    assert words["EXPOSE"] == str(PORT)
    assert all("--require-hashes -r" in one or "--no-deps --no-index" in one for one in re.findall(
        r"install (--\S+ \S+ \S+)", " ".join(line for word, line in found if word == "RUN")
    ))  # fmt: skip
    assert installs
    assert not [line for word, line in found if word in {"ENV", "ARG"} and re.search("(?i)secret|token|passw", line)]


def ignored(path: Path) -> bool:
    """Whether the build does not see a file of the tree."""
    name = path.relative_to(ROOT)
    patterns = [line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] != "#"]
    return any(
        fnmatch(name.name, pattern[3:]) if pattern.startswith("**/") else fnmatch(name.parts[0], pattern)
        for pattern in patterns
    )


def test_the_build_sees_what_the_wheel_is_made_of(tmp_path: Path) -> None:
    """What is not ignored makes the same wheel; and no secret is in it."""
    context = tmp_path / "context"
    names = [path.name for path in ROOT.iterdir() if not ignored(path)]
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            context.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, context / name)
    with (
        ZipFile(build("wheel", tmp_path / "one", source=context)) as one,
        ZipFile(build("wheel", tmp_path / "other")) as other,
    ):
        assert {name: one.read(name) for name in one.namelist()} == {n: other.read(n) for n in other.namelist()}
    assert ignored(ROOT / "etc/secret.key")
    assert {"requirements", "etc", "pyproject.toml"} <= set(names)


@pytest.fixture
def probed() -> Iterator[HTTPServer]:
    """Ready unless ``status`` says something else."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" and not getattr(self.server, "draining", False) else 503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_health_check_tells_ready_from_not(probed: HTTPServer) -> None:
    """The very command of the image, but for host and port."""
    (line,) = [line for word, line in instructions() if word == "HEALTHCHECK"]
    command = json.loads(line[line.index("[") :])
    script = command[2].replace("{socket.gethostname()}", "127.0.0.1").replace(f":{PORT}/", f":{probed.server_port}/")
    assert str(probed.server_port) in script
    codes = []
    for draining in (False, True):
        probed.draining = draining  # type: ignore[attr-defined] # ours, see above
        codes.append(subprocess.run([sys.executable, *command[1:2], script], check=False, stderr=-3).returncode)

    assert codes == [0, 1]


# --- compose


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


def nodes(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that are nodes."""
    return {name: service for name, service in compose["services"].items() if name != "proxy"}


def test_the_nodes_of_compose_are_those_of_its_cluster_file(compose: dict[str, Any]) -> None:
    """Each listens at its own address, under its own id, and keeps its data in a volume of its own."""
    config = good(DOCKER / "config/cluster.json")
    wanted = {f"api-{name}": url for name, url in config.api_nodes.items()}
    wanted |= {f"worker-{name}": url for name, url in config.worker_nodes.items()}
    found = {
        name: (service["command"][:2], service["networks"]["cluster"]["ipv4_address"])
        for name, service in nodes(compose).items()
    }

    assert found == {
        name: ([f"{name.partition('-')[0]}_node", name.partition("-")[2]], urlsplit(url).hostname)
        for name, url in wanted.items()
    }
    assert {urlsplit(url).port for url in wanted.values()} == {PORT}
    assert set(compose["volumes"]) == set(wanted)
    for name, service in nodes(compose).items():
        assert service["command"][2:] == ["/etc/tallyslice/cluster.json", "--data", "/data/node"]
        assert service["volumes"] == ["./config:/etc/tallyslice:ro", f"{name}:/data"]


def test_compose_gives_the_secret_to_api_nodes_alone(compose: dict[str, Any]) -> None:
    """As files; none is in the text or in the environment. What nodes may do is little."""
    config = load_config(DOCKER / "config/cluster.json")
    given = {name: set(service["secrets"]) for name, service in nodes(compose).items()}

    assert {path.name for path in (config.secret_file, config.internal_token_file) if path} == {SECRET, TOKEN}
    assert given == {name: {TOKEN, SECRET} if name.startswith("api") else {TOKEN} for name in given}
    assert set(compose["secrets"]) == {TOKEN, SECRET}
    for service in compose["services"].values():
        assert "environment" not in service
    for service in nodes(compose).values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert int(service["stop_grace_period"].removesuffix("s")) > 10


def test_the_proxy_of_compose_is_the_one_that_is_tested() -> None:
    """HAProxy's file but for addresses and user; and it is good."""
    shown, here = (re.sub(r"^#.*\n", "", (ROOT / "deploy" / name).read_text(), flags=re.MULTILINE)
                   for name in ("haproxy/haproxy.cfg", "docker/haproxy.cfg"))  # fmt: skip
    config = load_config(DOCKER / "config/cluster.json")
    for number, url in enumerate(config.api_nodes.values()):
        shown = shown.replace(f"127.0.0.1:800{number}", urlsplit(url).netloc)

    assert re.sub(r"^    (user|group|chroot) .*\n", "", shown, flags=re.MULTILINE) == here
    haproxy = program("haproxy", package="haproxy")
    assert subprocess.run([haproxy, "-c", "-q", "-f", DOCKER / "haproxy.cfg"], check=False).returncode == 0


# --- the chart

RENDERED = [HELM / f"rendered/{name}.yaml" for name in ("default", "all-on")]
rendered = pytest.mark.parametrize("file", RENDERED, ids=lambda file: file.stem)


def objects(file: Path) -> list[dict[str, Any]]:
    """All that the chart makes."""
    return [one for one in yaml.safe_load_all(file.read_text()) if one]


def of_kind(file: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Those of a kind, by name."""
    return {one["metadata"]["name"]: one for one in objects(file) if one["kind"] == kind}


@rendered
def test_what_is_tested_was_made_of_the_chart_as_it_is(file: Path) -> None:
    """After a change of the chart: deploy/helm/render."""
    chart = HELM / "tallyslice"
    files = sorted(path.relative_to(chart).as_posix() for path in chart.rglob("*") if path.is_file())
    content = b"".join((chart / name).read_bytes() for name in files)

    assert hashlib.sha256(content).hexdigest() in file.read_text().partition("\n")[0]


@rendered
def test_the_cluster_file_of_the_chart_is_good(file: Path, tmp_path: Path) -> None:
    """Its nodes are the pods, under the names that the pods have in their own /etc/hosts."""
    (config_map,) = of_kind(file, "ConfigMap").values()
    path = tmp_path / "cluster.json"
    path.write_text(config_map["data"]["cluster.json"])
    config = good(path)
    sets = of_kind(file, "StatefulSet")
    for kind, urls in (("api", config.api_nodes), ("worker", config.worker_nodes)):
        pods = sets[f"tallyslice-{kind}"]
        names = {f"tallyslice-{kind}-{number}" for number in range(pods["spec"]["replicas"])}

        assert set(urls) == names
        for name, url in urls.items():
            assert urlsplit(url).hostname == f"{name}.{pods['spec']['serviceName']}.counting.svc.cluster.local"
            assert urlsplit(url).port == PORT
    assert config.registry == "tallyslice-worker-0"


@rendered
@pytest.mark.parametrize("kind", ["api", "worker"])
def test_the_pods_of_the_chart(file: Path, kind: str) -> None:
    """Run their kind of node under their own name, find what they mount, may do little, and have time to leave."""
    pods = of_kind(file, "StatefulSet")[f"tallyslice-{kind}"]["spec"]
    pod = pods["template"]["spec"]
    (container,) = pod["containers"]
    secret = next(volume["secret"] for volume in pod["volumes"] if volume["name"] == "secret")
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in pod["volumes"]} | {
        claim["metadata"]["name"] for claim in pods["volumeClaimTemplates"]
    }

    assert container["args"][:5] == [
        f"{kind}_node", "$(POD_NAME)", "/etc/tallyslice/cluster.json", "--data", "/data/node"
    ]  # fmt: skip
    assert set(mounted) == volumes
    mounted.pop("tokens", None)
    assert mounted == {"data": "/data", "cluster": "/etc/tallyslice", "secret": "/run/tallyslice", "tmp": "/tmp"}  # noqa: S108 - in the pod
    assert {item["key"] for item in secret["items"]} == ({TOKEN, SECRET} if kind == "api" else {TOKEN})
    assert secret["defaultMode"] & 0o027 == 0  # the nodes want a secret that others cannot read
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (10001, 10001)
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert pod["terminationGracePeriodSeconds"] > 10 + (5 if kind == "api" else 0)


@rendered
def test_whatever_selects_pods_finds_them(file: Path) -> None:
    """Services, budgets, the sets themselves: their labels are the pods'."""
    labels = {
        name.removeprefix("tallyslice-"): one["spec"]["template"]["metadata"]["labels"]
        for name, one in of_kind(file, "StatefulSet").items()
    }

    def found(selector: dict[str, str]) -> set[str]:
        return {kind for kind, own in labels.items() if selector.items() <= own.items()}

    assert {name: found(one["spec"]["selector"]) for name, one in of_kind(file, "Service").items()} == {
        "tallyslice": {"api"}, "tallyslice-api": {"api"}, "tallyslice-worker": {"worker"}
    }  # fmt: skip
    for kind in ("PodDisruptionBudget", "StatefulSet"):
        for name, one in of_kind(file, kind).items():
            assert found(one["spec"]["selector"]["matchLabels"]) == {name.removeprefix("tallyslice-")}


def test_the_optional_parts_of_the_chart() -> None:
    """Off unless asked for; an Ingress leads to the Service for clients."""
    default, everything = ({one["kind"] for one in objects(file)} for file in RENDERED)
    (ingress,) = of_kind(RENDERED[1], "Ingress").values()
    (rule,) = ingress["spec"]["rules"]

    assert everything - default == {"Ingress", "ServiceMonitor"}
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == "tallyslice"
    assert "Secret" not in everything
