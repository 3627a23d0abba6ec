"""What holds for every command."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from runnerwsgi.cli import ENTRIES, SECTIONS, cli
from runnerwsgi.errors import BundleError

from . import plugins


def test_the_overview_names_every_command_with_its_line(run):
    said = run("--help").stdout
    for entries in SECTIONS.values():
        for entry in entries:
            assert any(
                line.split() == [entry.name, *entry.summary.split()] for line in said.splitlines()
            ), entry.name


def test_the_overview_loads_no_command():
    code = "import sys; from runnerwsgi.cli import main\ntry: main(['--help'])\nexcept SystemExit: "
    code += "print(sorted({'sqlalchemy', 'werkzeug', 'wasmtime', 'pluggy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", ENTRIES)
def test_every_command_explains_itself(run, name):
    said = run(name, "--help")
    assert said.exit_code == 0
    assert "--help" in said.stdout
    if name not in ("new", "serve", "runner"):
        assert "--json" in said.stdout


def test_the_version(run):
    assert run("--version").stdout.startswith("runnerwsgi ")


def test_an_unknown_command_is_wrong_usage_and_the_nearest_is_named(run):
    said = run("instal")
    assert said.exit_code == 2
    assert "There is no command `instal`. Did you mean `install`?" in said.stderr


def test_a_reader_that_has_enough_hears_no_complaint(folder):
    code = "import os; os.close(0); read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
    code += "from runnerwsgi.cli import main\nmain(['env'])"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_failure_is_one_line_on_stderr(run):
    said = run("pack", "nowhere")
    assert said.exit_code == 1
    assert said.stdout == ""
    assert said.stderr.startswith("error: nowhere has no manifest.json")
    assert said.stderr.count("\n") == 1


def test_a_failure_for_programs_is_one_json_value(run):
    said = run("pack", "nowhere", "--json")
    assert said.exit_code == 1
    error = json.loads(said.stdout)["error"]
    assert error["code"] == "bundle-unavailable"
    assert "manifest.json" in error["message"]


@pytest.mark.parametrize(
    "typed", [("pack", "x", "--debug"), ("--debug", "pack", "x")], ids=["after", "before"]
)
def test_debug_lets_the_traceback_through(run, typed):
    assert isinstance(run(*typed).exception, BundleError)


def test_every_fault_of_the_settings_is_told(run):
    said = run("installs", env={"RUNNER_TIMEOUT_MS": "soon", "RUNNER_UI": "popup"})
    assert said.exit_code == 1
    assert said.stderr.count("error: ") == 2
    assert "RUNNER_TIMEOUT_MS" in said.stderr
    assert "RUNNER_UI" in said.stderr


def test_what_others_wrote_does_not_steer_the_terminal(run):
    assert "\x1b[2J" not in run("execute", "x\x1b[2J", "GET", "/").stderr


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(plugins.install(tmp_path / "site"))


@pytest.mark.usefixtures("site")
class TestPlugins:
    def test_a_plugin_has_its_commands_under_its_name(self, run):
        assert run("greeter", "hi").stdout == "hi from the greeter\n"

    def test_whatever_the_backend_is(self, run):
        assert run("greeter", "hi", env={"RUNNER_BACKEND": "nosuch"}).exit_code == 0

    def test_its_help_lists_them(self, run):
        assert "Say hi." in run("greeter", "--help").stdout

    def test_commands_of_its_module_need_none_of_its_settings(self, run):
        assert run("unset", "setup").stdout == "set it up so\n"
        assert "RUNNER_UNSET_URL" in run("plugins", "unset").stdout

    def test_one_without_commands_says_so(self, run):
        said = run("dead", "up")
        assert said.exit_code == 1
        assert said.stderr.startswith("error: The plugin dead has no commands")

    def test_one_that_cannot_be_loaded_says_why(self, run):
        said = run("broken", "up")
        assert said.exit_code == 1
        assert "plugins-of-the-tests 1.2.3" in said.stderr
        assert "no_such_module" in said.stderr

    def test_a_broken_one_stops_no_other_command(self, run):
        assert run("installs").exit_code == 0


def test_the_entry_point_is_this_command_line():
    done = subprocess.run(
        [sys.executable, "-c", "from runnerwsgi.cli import main; main()", "--version"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, CliRunner().invoke(cli, ["--version"]).output)
