"""`plugins`, `env` and `doctor`."""

import json
import os
import socket
import sys

import pytest
from peers import unused_port

from runnerwsgi.settings import SETTINGS, Settings

from . import plugins

TOKEN = "a-token-of-at-least-32-characters"
PASSWORD = "hunter2hunter2"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(plugins.install(tmp_path / "site"))


def settings(said):
    return {row["name"]: row for row in json.loads(said.stdout)["settings"]}


class TestEnv:
    def test_every_setting_is_there_with_its_default(self, run):
        found = settings(run("env", "--json"))
        assert {row.name for row in SETTINGS} <= set(found)
        assert found["RUNNER_TIMEOUT_MS"]["value"] == "30000"
        assert found["RUNNER_TIMEOUT_MS"]["origin"] == "default"

    def test_what_follows_from_others_is_worked_out(self, run):
        found = settings(run("env", "--json"))
        assert found["RUNNER_BUNDLE_STORE"]["value"] == f"{os.environ['RUNNER_HOME']}/bundles"

    @pytest.mark.parametrize(
        ("name", "value", "origin"),
        [
            ("RUNNER_TIMEOUT_MS", "900", "environment"),
            ("EXT_GATEWAY_TIMEOUT_MS", "900", "environment (EXT_GATEWAY_TIMEOUT_MS, an older"),
        ],
    )
    def test_where_a_value_comes_from(self, run, name, value, origin):
        row = settings(run("env", "--json", env={name: value}))["RUNNER_TIMEOUT_MS"]
        assert row["value"] == value
        assert row["origin"].startswith(origin)

    def test_settings_of_the_backends_own(self, run):
        row = settings(run("env", "--json"))["RUNNER_WASM_LOG_LINES"]
        assert row["owner"] == "wasm"

    @pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
    def test_secrets_are_not_shown(self, run, form):
        database = f"postgresql://me:{PASSWORD}@db.example/app"
        keys = f"rediss://keys.example/0?password={PASSWORD}&ssl_ca_certs=/ca.pem"
        env = {
            "RUNNER_SERVICE_TOKEN": TOKEN,
            "RUNNER_DATABASE_URL": database,
            "RUNNER_IDEMPOTENCY_URL": keys,
        }
        said = run("env", *form, env=env)
        assert TOKEN not in said.output
        assert PASSWORD not in said.output
        assert "me:[secret]@db.example" in said.stdout
        assert "keys.example/0?password=[secret]&ssl_ca_certs" in said.stdout

    def test_a_bad_token_is_not_shown_either(self, run):
        said = run("env", env={"RUNNER_SERVICE_TOKEN": "short-and-secret"})
        assert said.exit_code == 1
        assert "short-and-secret" not in said.output

    def test_every_fault_is_told(self, run):
        wrong = {"RUNNER_TIMEOUT_MS": "soon", "RUNNER_WASM_LOG_LINES": "many"}
        said = run("env", env=wrong)
        assert said.exit_code == 1
        assert said.stderr.count("error: ") == 2
        assert all(name in said.stderr for name in wrong)

    def test_what_nobody_reads_is_warned_about(self, run):
        said = run("env", env={"RUNNER_TIMEOUT": "1"})
        assert said.exit_code == 0
        assert "RUNNER_TIMEOUT is set, and nothing reads it" in said.stderr

    @pytest.mark.usefixtures("own_code")
    def test_only_what_is_set(self, run):
        assert set(settings(run("env", "--set", "--json"))) == {"RUNNER_BACKEND", "RUNNER_HOME"}


@pytest.mark.usefixtures("site")
class TestPlugins:
    def rows(self, said):
        return {row["name"]: row for row in json.loads(said.stdout)["plugins"]}

    def test_the_backend_is_loaded_and_its_hooks_are_listed(self, run):
        row = self.rows(run("plugins", "--json"))["wasm"]
        assert (row["used_as"], row["state"]) == ("RUNNER_BACKEND", "loaded")
        assert {"runner_execute", "runner_health"} <= set(row["hooks"])
        assert row["distribution"].startswith("runnerwsgi ")

    def test_what_nobody_named_is_not_loaded(self, run):
        said = run("plugins")
        assert said.exit_code == 0
        assert "not loaded" in next(line for line in said.stdout.splitlines() if "broken" in line)

    def test_unless_it_is_named_here(self, run):
        row = self.rows(run("plugins", "greeter", "--json"))["greeter"]
        assert (row["state"], row["hooks"]) == ("loaded", ["runner_register_commands"])
        assert row["distribution"] == "plugins-of-the-tests 1.2.3"

    @pytest.mark.parametrize(
        ("names", "env"), [(["broken"], {}), ([], {"RUNNER_PLUGINS": "broken"})],
        ids=["named here", "named in the environment"],
    )  # fmt: skip
    def test_why_one_cannot_be_loaded(self, run, names, env):
        said = run("plugins", *names, "--json", env=env)
        assert said.exit_code == 1
        assert "No module named 'no_such_module'" in self.rows(said)["broken"]["state"]

    def test_one_that_is_not_installed(self, run):
        said = run("plugins", env={"RUNNER_BACKEND": "nosuch"})
        assert said.exit_code == 1
        assert "RUNNER_BACKEND=nosuch" in said.stderr
        assert run("plugins", "nosuch").exit_code == 1


class TestDoctor:
    def findings(self, said):
        return json.loads(said.stdout)["findings"]

    def states(self, said, what):
        return [one["state"] for one in self.findings(said) if one["what"] == what]

    @pytest.fixture
    def port(self):
        return str(unused_port())

    def test_all_is_well(self, run, installed, port):
        said = run("doctor", "--port", port, "--json")
        assert said.exit_code == 0
        found = self.findings(said)
        assert {one["state"] for one in found} == {"ok"}, found
        names = {one["what"] for one in found}
        assert names >= {"settings", "backend", "store", "database", "cache", "port", "server"}

    def test_before_anything_was_installed(self, run, port):
        assert run("doctor", "--port", port).exit_code == 0

    def test_for_people(self, run, port):
        said = run("doctor", "--port", port)
        assert any(line.split()[:2] == ["ok", "backend"] for line in said.stdout.splitlines())

    @pytest.mark.parametrize(
        ("env", "what", "state", "words"),
        [
            ({"RUNNER_TIMEOUT_MS": "x"}, "settings", "fail", "RUNNER_TIMEOUT_MS"),
            ({"RUNNER_TIMEOUT": "1"}, "settings", "warn", "unset RUNNER_TIMEOUT"),
            ({"RUNNER_BACKEND": "nosuch"}, "backend", "fail", "Installed: "),
            ({"RUNNER_THREADS": "2"}, "server", "warn", "RUNNER_RESERVED_THREADS"),
            ({"RUNNER_IDENTITY": "local"}, "identity", "warn", "development"),
            (
                {"RUNNER_DATABASE_URL": "sqlite:////dev/null/at.db"},
                "database",
                "fail",
                "RUNNER_DATABASE_URL",
            ),
        ],
        ids=[
            "a wrong setting",
            "a setting of no meaning",
            "a backend that is missing",
            "too few threads",
            "everybody is let in",
            "a database that is not there",
        ],
    )
    def test_what_is_wrong_comes_with_its_fix(self, run, port, env, what, state, words):
        said = run("doctor", "--port", port, "--json", env=env)
        assert said.exit_code == (1 if state == "fail" else 0)
        found = [one for one in self.findings(said) if one["what"] == what]
        assert state in [one["state"] for one in found]
        assert any(words in one["found"] + one["fix"] for one in found)
        assert all(one["fix"] for one in found if one["state"] != "ok")

    def test_a_store_that_needs_what_is_not_installed(self, run, port, monkeypatch):
        monkeypatch.setitem(sys.modules, "boto3", None)
        env = {"RUNNER_BUNDLE_STORE": "s3://bundles/here"}
        said = run("doctor", "--port", port, "--json", env=env)
        assert said.exit_code == 1
        found = {one["what"]: one for one in self.findings(said)}
        assert (found["database"]["state"], found["store"]["state"]) == ("ok", "fail")
        assert "runnerwsgi[s3]" in found["store"]["found"]
        assert "RUNNER_BUNDLE_STORE" in found["store"]["fix"]

    def test_what_the_backend_finds_is_told_as_well(self, run, site, port):
        said = run("doctor", "--port", port, env={"RUNNER_BACKEND": "dead"})
        assert said.exit_code == 1
        lines = [line.split() for line in said.stdout.splitlines()]
        assert ["ok", "oil", "full"] in lines
        gone = lines.index(["fail", "engine", "gone"])
        assert lines[gone + 1] == ["→", "buy", "an", "engine."]

    def test_a_bundle_that_is_gone(self, run, installed, port):
        home = Settings.from_env(os.environ).home
        (bundle,) = (home / "bundles/sha256").iterdir()
        bundle.rename(home / "elsewhere")
        said = run("doctor", "--port", port, "--json")
        assert said.exit_code == 1
        assert self.states(said, "demo.hello (default)") == ["fail"]

    def test_a_key_that_is_gone(self, run, hello, port):
        run("install", "hello", "--secret", "key=-", input="value")
        (Settings.from_env(os.environ).home / "secret.key").unlink()
        said = run("doctor", "--port", port, "--json")
        assert self.states(said, "demo.hello (default)") == ["fail"]

    def test_a_home_that_is_open_to_others(self, run, installed, port):
        home = Settings.from_env(os.environ).home
        home.chmod(0o755)
        said = run("doctor", "--port", port)
        assert said.exit_code == 0
        assert f"→ close it: chmod 700 {home}." in said.stdout

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            pytest.param("/proc/none/home", "No such file", id="where no folder can be"),
            pytest.param("/dev/null/home", "Not a directory", id="below a file"),
        ],
    )
    @pytest.mark.usefixtures("own_code")
    def test_a_home_that_cannot_be_is_told_once(self, run, port, name, reason):
        said = run("doctor", "--port", port, "--json", env={"RUNNER_HOME": name})
        assert said.exit_code == 1
        (found,) = (one for one in self.findings(said) if one["state"] != "ok")
        assert found["what"] == "home"
        assert found["found"].startswith(f"{name} cannot be made: {reason}")
        assert "RUNNER_HOME" in found["fix"]
        # What would be in there is neither well nor a second failure.
        assert not self.states(said, "database")
        assert not self.states(said, "store")
        assert not self.states(said, "cache")

    @pytest.mark.parametrize(
        ("setting", "what", "fix"),
        [
            ("RUNNER_BUNDLE_STORE", "store", "correct RUNNER_BUNDLE_STORE"),
            ("RUNNER_WASM_CACHE_DIR", "cache", "`runnerwsgi env` lists"),
        ],
        ids=["bundles", "machine code"],
    )
    @pytest.mark.parametrize("name", ["/proc/none/at", "/dev/null/at"])
    def test_a_folder_elsewhere_that_cannot_be(self, run, port, setting, what, fix, name):
        said = run("doctor", "--port", port, "--json", env={setting: name})
        assert said.exit_code == 1
        (found,) = (one for one in self.findings(said) if one["state"] != "ok")
        assert (found["what"], found["state"]) == (what, "fail")
        assert found["found"].startswith(f"{name} cannot be made: ")
        assert fix in found["fix"]

    # As below a folder that is closed, which says so to everybody but root.
    @pytest.mark.parametrize(
        ("setting", "what"), [("RUNNER_HOME", "home"), ("RUNNER_BUNDLE_STORE", "store")]
    )
    def test_a_folder_that_none_may_look_at_is_told_in_words(self, run, port, setting, what):
        said = run("doctor", "--port", port, "--json", env={setting: f"/tmp/{'a' * 300}"})
        assert self.states(said, what) == ["fail"]
        assert "fail" not in self.states(said, "switch") + self.states(said, "backend")
        assert "File name too long" in said.stdout
        assert "OSError" not in said.stdout

    def test_a_store_that_can_still_be_made_is_well_and_is_not_made(self, run, port, tmp_path):
        store = tmp_path / "not" / "yet"
        said = run("doctor", "--port", port, "--json", env={"RUNNER_BUNDLE_STORE": str(store)})
        assert self.states(said, "store") == ["ok"]
        assert not store.parent.exists()
        assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]

    def test_a_home_that_is_a_file(self, run, port, tmp_path):
        (tmp_path / "home").write_text("")
        said = run("doctor", "--port", port, "--json")
        (found,) = (one for one in self.findings(said) if one["state"] != "ok")
        assert "File exists" in found["found"]

    def test_a_port_that_is_taken(self, run):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            said = run("doctor", "--port", str(taken.getsockname()[1]), "--json")
        assert said.exit_code == 0
        assert self.states(said, "port") == ["warn"]
