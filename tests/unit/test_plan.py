"""``tallyslice plan``: on two files alone, and beside a running API node (here one that only answers /cluster)."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
from click.testing import CliRunner

from tallyslice.__main__ import main
from tests.support.configs import cluster_bytes, cluster_config, pins_of, workers

OLD = cluster_bytes(worker_nodes=workers("0", "1", "2"))
NEW_ROUTING = [{"slice": 0, "nodes": ["0"]}, {"slice": 3, "nodes": ["0", "1"]}]


@pytest.fixture
def plan(tmp_path):
    """Run the command on these two contents."""

    def run(old, new, *options):
        (tmp_path / "old.json").write_bytes(old)
        (tmp_path / "new.json").write_bytes(new)
        arguments = ["plan", str(tmp_path / "old.json"), str(tmp_path / "new.json"), *options]
        return CliRunner(env={"COLUMNS": "200"}).invoke(main, arguments)

    return run


@pytest.fixture
def api():
    """A server at a free port; what it answers is ``answer``: a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = server.answer if self.path == "/cluster" else (404, b"")
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):  # noqa: A002 - the name is http.server's
            pass

    class Server(ThreadingHTTPServer):
        answer = (200, b"{}")
        url = ""

    server = Server(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}/analytics"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def cluster(named, settled):
    """What an API node answers; plans tolerate keys that they do not know."""
    pins = msgspec.to_builtins(pins_of(cluster_config()))
    return 200, json.dumps({"version": "x", "pins": pins, "named": named, "settled": settled}).encode()


def rows(output):
    """The cells of every row of the table."""
    return [tuple(cell.strip() for cell in row.strip("│").split("│")) for row in output.splitlines() if "│" in row]


def test_a_plan_of_two_files_shows_which_slices_would_route_where(plan):
    """And that what is settled is not known."""
    result = plan(OLD, cluster_bytes(worker_nodes=workers("0", "1", "2"), routing=NEW_ROUTING))

    assert result.exit_code == 0
    assert rows(result.output) == [
        ("slices up to 2", '["0"]', '["0"]', '["0"]'),
        ("slices 3 and later", '["0"]', '["0", "1"]', '["0", "1"]'),
    ]
    assert 'slices 3 and later, where not settled: ["0"] -> ["0", "1"]' in result.output
    assert "--url URL asks a running API node" in result.output
    assert result.output.endswith("would be accepted.\n")


def test_a_plan_of_equal_files_changes_nothing(plan):
    """And says so."""
    assert "Changes:\n  none\n" in plan(OLD, OLD + b" // a comment").output


def test_a_plan_beside_a_running_node_shows_what_is_settled(plan, api):
    """Settled slices stay where they are, whatever the new file proposes."""
    api.answer = cluster(["0"], [{"slice": 3, "route": ["0"], "number": 1}, {"slice": 4, "route": ["0"], "number": 2}])
    result = plan(OLD, cluster_bytes(routing=NEW_ROUTING), "--url", api.url)

    assert (result.exit_code, result.stderr) == (0, "")
    assert rows(result.output) == [
        ("slices up to 2", '["0"]', '["0"]', "", '["0"]'),
        ("slices 3 to 4", '["0"]', '["0", "1"]', '["0"]', '["0"]'),
        ("slices 5 and later", '["0"]', '["0", "1"]', "", '["0", "1"]'),
    ]
    assert 'worker "2" goes' in result.output
    assert "--url URL" not in result.output


def test_a_plan_says_what_the_judge_would_say(plan, api):
    """With exit code 78, as a node that starts with that file has it."""
    api.answer = cluster(["0", "2"], [])
    result = plan(OLD, cluster_bytes(length_of_time_slice=61), "--api", api.url)

    assert result.exit_code == 78
    assert result.stderr.splitlines()[1:] == [
        "length-of-time-slice: 61 is not what the cluster has pinned; must stay 60",
        'worker-nodes: worker "2" holds settled slices and cannot be removed',
    ]
    assert "length-of-time-slice: 60 -> 61" in result.output


def test_a_plan_of_a_wrong_file_tells_its_problems(plan):
    """As check-config does."""
    result = plan(OLD, b"{}")

    assert result.exit_code == 78
    assert result.stderr.startswith("api-nodes: is missing")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((503, b""), "answers with status 503"),
        ((200, b"<html>"), "does not answer like an API node: "),
        ((200, b'{"pins": {"cluster": 7}}'), "does not answer like an API node: "),
    ],
)
def test_a_node_that_answers_something_else_is_an_error(plan, api, answer, told):
    """A plan without what is settled would be another plan than the one asked for."""
    api.answer = answer
    result = plan(OLD, OLD, "--api", api.url)

    assert result.exit_code == 70
    assert result.stderr.startswith(f"{api.url.removesuffix('analytics')}cluster {told}")


def test_a_node_that_does_not_answer_is_an_error(plan):
    """Nobody listens at a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        origin = f"http://127.0.0.1:{taken.getsockname()[1]}"
    result = plan(OLD, OLD, "--api", f"{origin}/analytics")

    assert result.exit_code == 70
    assert result.stderr.startswith(f"{origin}/cluster does not answer: cannot connect\n")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/", "http://", "http://a:99999/", "http://[::1/"])
def test_what_is_no_url_of_a_node_is_a_usage_error(plan, url):
    """Exit code 64."""
    result = plan(OLD, OLD, "--api", url)

    assert result.exit_code == 64
    assert "must be the URL of an API node" in result.stderr
