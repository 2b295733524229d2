"""``tallyslice check-config``, and the exit codes that every command shares."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from common.errors import PortInUse
from tallyslice.__main__ import Commands, main
from tests.support.configs import ISSUE_EXAMPLE, cluster_bytes


@pytest.fixture
def run():
    """Run the command with these arguments."""
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cluster.json"


def rows(output):
    """The cells of every row of the tables in an output."""
    return [tuple(cell.strip() for cell in row.strip("│┃").split("│")) for row in output.splitlines() if "│" in row]


def test_a_good_file_is_shown_as_it_is_understood(run, file):
    """Nodes, slices and routing, with what the file leaves out."""
    file.write_bytes(ISSUE_EXAMPLE)
    result = run("check-config", file)

    assert result.exit_code == 0
    assert "cluster.json is good (version " in result.output
    shown = rows(result.output)
    assert ("API", "1", "http://localhost:8001/analytics") in shown
    assert ("worker, registry", "0", "http://localhost:9000/worker") in shown
    assert ("worker", "3", "http://localhost:9003/worker") in shown
    assert ("slices up to 0", '["0"]') in shown
    assert ("slices 1 to 2", '["0", "1"]') in shown
    assert ("slices 3 to 99", '["0", "1", "2", "3"]') in shown
    assert ("slices 100 and later", '["0"]') in shown
    assert ("first-slice", "2017-05-20T00:00:00Z") in shown
    assert ("length-of-time-slice", "3600 seconds") in shown
    assert ("close-after-seconds", "never") in shown


def test_every_setting_of_a_file_is_shown(run, file):
    """In place of the default."""
    file.write_bytes(
        cluster_bytes(first_slice="system", close_after_seconds=5, max_past_seconds=60, compat="rt", event_types="any")
    )
    shown = rows(run("check-config", file).output)

    assert ("first-slice", '"system": when the cluster first starts') in shown
    assert ("close-after-seconds", "5") in shown
    assert ("max-past-seconds", "60") in shown
    assert ("spool-max-bytes", "1073741824") in shown
    assert ("spool-max-age-seconds", "86400.0") in shown or ("spool-max-age-seconds", "86400") in shown
    assert ("compat", "rt") in shown
    assert ("event-types", "any") in shown


def test_a_wrong_file_is_refused_with_all_its_problems(run, file):
    """Each on a line of its own on standard error, and exit code 78."""
    file.write_bytes(cluster_bytes(routing=[{"slice": 0, "nodes": ["7"]}], compat="x"))
    result = run("check-config", file)

    assert result.exit_code == 78
    assert result.stderr == (
        'routing[0].nodes[0]: no worker "7"; known: "0", "1"\ncompat: must be "rt" or null, not "x"\n'
    )
    assert result.stdout == ""


def test_a_missing_file_is_refused(run, file):
    """As any other that cannot be used."""
    result = run("check-config", file)

    assert (result.exit_code, result.stderr) == (78, f"{file}: cannot be read: No such file or directory\n")


@pytest.mark.parametrize(
    "arguments", [("bogus",), ("check-config",), ("check-config", "a", "b"), ("--bogus",), ("plan", "a")]
)
def test_a_usage_error_has_exit_code_64(run, arguments):
    """Not click's 2, and with the usage."""
    result = run(*arguments)

    assert result.exit_code == 64
    assert result.stderr.startswith("Usage: ")


def test_help_and_version_are_no_errors(run):
    """Exit code 0; the commands are listed."""
    result = run("--help")

    assert result.exit_code == 0
    assert {"check-config", "load", "plan", "up"} <= set(result.output.split())
    assert run("--version").exit_code == 0
    assert run("check-config", "-h").exit_code == 0
    assert run().exit_code == 64


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (PortInUse("127.0.0.1:8000 is taken"), 69, "127.0.0.1:8000 is taken\n"),
        (click.FileError("x", "is odd"), 64, "Error: Could not open file 'x': is odd\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (None, 0, ""),
    ],
)
def test_an_error_of_a_command_is_a_message_and_an_exit_code(raised, code, told):
    """Without a traceback."""

    @click.command
    def command():
        if raised is not None:
            raise raised

    result = CliRunner().invoke(main_of(command), ["command"])

    assert (result.exit_code, result.stderr) == (code, told)
    assert isinstance(result.exception, SystemExit) or code == 0


def test_what_a_command_returns_is_its_exit_code():
    """And called as a function, errors are raised as they are."""

    @click.command
    def command():
        return 3

    assert CliRunner().invoke(main_of(command), ["command"]).exit_code == 3
    assert main_of(command).main(["command"], standalone_mode=False) == 3


def main_of(command):
    """The same group with another command in it."""

    class OneCommand(Commands):
        def get_command(self, ctx, cmd_name):
            return command

    return OneCommand("tallyslice")


def test_check_config_starts_without_what_other_commands_need(file):
    """No HTTP library is imported for it, so it answers at once."""
    file.write_bytes(ISSUE_EXAMPLE)
    code = "import sys; sys.argv[0] = 'tallyslice'\nfrom tallyslice.__main__ import main\n"
    check = "try: main()\nfinally: print('aiohttp' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + check, "check-config", str(file)], capture_output=True, text=True, check=True
    )

    assert done.stderr == "False\n"
    assert "is good" in done.stdout
