"""`install`, `uninstall` and `installs`."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress

import pytest
from peers import peer

from runnerwsgi.installs import Installs
from runnerwsgi.settings import Settings

READY = (
    b"HTTP/1.1 200 OK\r\nX-Runner: runnerwsgi/1\r\nContent-Type: application/json\r\n"
    b'Content-Length: 29\r\n\r\n{"compiled": true, "ms": 900}'
)
REFUSED = (
    b"HTTP/1.1 502 Bad Gateway\r\nX-Runner: runnerwsgi/1\r\n"
    b"Content-Type: application/problem+json\r\n"
    b'Content-Length: 29\r\n\r\n{"code":"bundle-unavailable"}'
)
SECRET = "correct-horse-battery"


def asking(folder, *capabilities, **more):
    """Have the extension in *folder* ask for capabilities, and change other fields."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["capabilities"] = list(capabilities)
    path.write_text(json.dumps(manifest | more))


def stored(run):
    return json.loads(run("installs", "--json").stdout)["installs"]


class TestInstall:
    def test_a_folder_is_built_packed_and_installed(self, run, hello):
        said = run("install", "hello")
        assert said.exit_code == 0, said.stderr
        assert "Installed demo.hello 0.1.0" in said.stdout
        assert "/runner/ext-ui/demo.hello/sha256:" in said.stdout
        assert "/api/ext/demo.hello/" in said.stdout
        assert said.stdout.endswith("runnerwsgi execute demo.hello GET /hello\n")

    def test_the_next_command_it_names_works(self, run, hello):
        *_, command = run("install", "hello", "--tenant", "acme").stdout.split("runnerwsgi ")
        said = run(*command.split())
        assert said.exit_code == 0, said.stderr
        assert "GET /hello" in said.stdout

    def test_that_command_can_be_pasted_whatever_the_tenant(self, run, hello):
        said = run("install", "hello", "--tenant", "A & B")
        assert said.stdout.endswith("GET /hello --tenant 'A & B'\n")

    @pytest.mark.usefixtures("own_code")
    def test_a_bundle(self, run, hello):
        run("build", "hello")
        file = json.loads(run("pack", "hello", "--json").stdout)
        done = json.loads(run("install", file["file"], "--json").stdout)
        assert done["content_hash"] == file["content_hash"]
        assert done["compiled"] is True

    @pytest.mark.usefixtures("own_code")
    def test_a_second_time_nothing_is_compiled(self, run, hello):
        run("install", "hello")
        assert json.loads(run("install", "hello", "--json").stdout)["compiled"] is False

    def test_a_mere_page(self, run, folder):
        run("new", "extension", "page", "--template", "ui")
        done = json.loads(run("install", "page", "--json").stdout)
        assert done["page"].endswith("/index.html")
        assert "handler" not in done

    @pytest.mark.parametrize(
        ("source", "complaint"),
        [
            ("nowhere", "nowhere does not exist"),
            (".", "has no manifest.json"),
            ("junk", "Repack it"),
        ],
        ids=["nothing", "another folder", "another file"],
    )
    def test_what_is_no_extension_is_refused(self, run, folder, source, complaint):
        (folder / "junk").write_bytes(b"no bundle" * 100)
        said = run("install", source)
        assert said.exit_code == 1
        assert said.stderr.count("\n") == 1
        assert complaint in said.stderr or "zstd" in said.stderr
        assert stored(run) == []

    def test_a_backend_that_is_missing_is_told_before_anything_is_kept(self, run, hello, tmp_path):
        said = run("install", "hello", env={"RUNNER_BACKEND": "nosuch"})
        assert said.exit_code == 1
        assert "RUNNER_BACKEND=nosuch: no installed plugin has this name" in said.stderr
        assert not (tmp_path / "home/bundles").exists()
        assert "not set" not in said.stderr

    def test_a_backend_that_nobody_chose_is_told_as_that(self, run, hello):
        said = run("install", "hello", env={"RUNNER_BACKEND": None})
        assert "RUNNER_BASE_URL" in said.stderr  # of the backend for production
        assert said.stderr.endswith("Without a cluster, RUNNER_BACKEND=wasm needs no set-up.\n")

    def test_a_component_that_cannot_run_is_not_installed(self, run, hello):
        (hello / "src/main.wat").write_text("(component)")
        said = run("install", "hello")
        assert said.exit_code == 1
        assert "cannot be run" in said.stderr
        assert said.stderr.endswith("wants `handler`. Nothing was installed.\n")
        assert stored(run) == []


class TestGrants:
    def test_what_it_asks_for_is_shown_and_not_simply_granted(self, run, hello):
        asking(hello, "cap:log.emit", "cap:storage.kv")
        said = run("install", "hello")
        assert said.exit_code == 0
        table = [line.split()[0::1] for line in said.stdout.splitlines()]
        assert ["cap:log.emit", "write", "log", "lines", "always"] in table
        assert ["cap:storage.kv", "store", "data", "of", "its", "own", "no"] in table
        assert "warning: cap:storage.kv is not granted" in said.stderr
        assert "cap:storage.kv" not in stored(run)[0]["grants"]

    @pytest.mark.parametrize("option", [("--yes",), ("--grant", "cap:storage.kv")])
    def test_it_is_granted_when_one_says_so(self, run, hello, option):
        asking(hello, "cap:storage.kv")
        said = run("install", "hello", *option)
        assert "warning" not in said.stderr
        assert "cap:storage.kv" in stored(run)[0]["grants"]

    @pytest.mark.parametrize(
        ("options", "warning"),
        [
            (["--grant", "cap:storage.kv"], "does not ask for it"),
            (["--grant", "cap:http.fetch"], "without --egress it reaches nothing"),
            (["--grant", "cap:ui.proxy"], "without --route it reaches nothing"),
            (["--route", "GET /api/things"], "no effect without --grant cap:ui.proxy"),
            (["--egress", "https://a.example"], "stays closed"),
            (["--grant", "cap:scheduler.manage"], "no plugin provides scheduler"),
            (["--grant", "cap:storag.kv"], "no plugin provides storag.kv"),
        ],
    )
    def test_what_makes_no_sense_is_warned_about(self, run, hello, options, warning):
        said = run("install", "hello", *options, "--json")
        assert said.exit_code == 0
        assert any(warning in text for text in json.loads(said.stdout)["warnings"])

    def test_a_page_gets_forms_when_it_asks_and_one_says_so(self, run, hello):
        page = {"type": "iframe", "entry": "ui/index.html", "sandbox": ["allow-forms"]}
        asking(hello, ui=page)
        refused = run("install", "hello")
        assert "allow-forms is not granted" in refused.stderr
        done = run("install", "hello", "--grant", "allow-forms")
        assert "submit forms in its page" in done.stdout
        assert "allow-forms" in run("installs").stdout
        assert "allow-forms" in stored(run)[0]["grants"]

    def test_egress_below_the_upper_bound_is_fine(self, run, hello):
        asking(hello, "cap:http.fetch")
        allow = {"RUNNER_EGRESS_ALLOW": "https://*.example.com"}
        options = ["--yes", "--egress", "https://api.example.com"]
        done = json.loads(run("install", "hello", *options, "--json", env=allow).stdout)
        assert done["warnings"] == []
        assert done["egress"] == ["https://api.example.com"]

    @pytest.mark.parametrize(
        "option",
        [("--grant", "storage"), ("--route", "FETCH /"), ("--egress", "ftp://a.example")],
    )
    def test_what_cannot_be_granted_is_refused(self, run, hello, option):
        said = run("install", "hello", *option)
        assert said.exit_code == 2
        assert option[0] in said.stderr
        assert said.stdout == ""
        assert stored(run) == []

    @pytest.mark.parametrize(
        ("answer", "status", "granted"), [("y", 0, [True]), ("n", 1, [])], ids=["yes", "no"]
    )
    def test_on_a_terminal_it_asks(self, run, hello, answer, status, granted):
        asking(hello, "cap:storage.kv")
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", "from runnerwsgi.cli import main; main()", "install", "hello"],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.write(ours, f"{answer}\n".encode())
        said, _ = process.communicate(timeout=30)
        os.close(ours)
        os.close(theirs)
        assert b"Grant what it asks for?" in said
        assert process.returncode == status
        assert ["cap:storage.kv" in one["grants"] for one in stored(run)] == granted


class TestWaiting:
    """A runner that takes its time to make an extension ready."""

    @pytest.fixture
    def far(self, hello, monkeypatch):
        """Have the runner be one that answers so: ``far(b"HTTP/1.1 200 …")``."""
        with ExitStack() as stack:

            def make(answer):
                def script(talk):
                    while talk.request():
                        time.sleep(1)
                        talk.send(answer)

                monkeypatch.setenv("RUNNER_BACKEND", "docker")
                monkeypatch.setenv("RUNNER_DOCKER_HOST", stack.enter_context(peer(script)).url)
                monkeypatch.setattr("runnerwsgi.cli.output.PATIENCE_SECONDS", 0.2)

            yield make

    def test_who_waits_is_told_what_for_and_what_came_of_it(self, run, far):
        far(READY)
        said = run("install", "hello", "--json")
        assert said.exit_code == 0, said.stderr
        lines = said.stderr.splitlines()
        _, second, third = lines[lines.index("Making it ready …") :][:3]
        assert second.startswith("Waiting for the backend docker to fetch and compile it; a runner")
        assert re.fullmatch(r"Done after \d+\.\d s\.", third)
        assert json.loads(said.stdout)["warm_up_ms"] == 900

    def test_a_wait_in_vain_is_told_before_the_reason(self, run, far):
        far(REFUSED)
        said = run("install", "hello")
        assert said.exit_code == 1
        *_, gave_up, reason = said.stderr.splitlines()
        assert re.fullmatch(r"Gave up after \d+\.\d s\.", gave_up)
        assert reason.startswith("error: ")
        assert stored(run) == []

    def test_on_a_terminal_the_lines_stay_above_the_spinner(self, far):
        far(READY)
        patient = "from runnerwsgi.cli import main, output; output.PATIENCE_SECONDS = 0.2; main()"
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", patient, "install", "hello", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "300"},
        )
        told, _ = process.communicate(timeout=60)
        os.close(theirs)
        said = b""
        with suppress(OSError):  # as Linux says that the other end is closed
            while part := os.read(ours, 4096):
                said += part
        os.close(ours)
        said = said.decode()
        assert json.loads(told)["warm_up_ms"] == 900
        waiting, done = said.index("Waiting for the backend docker"), said.index("Done after")
        assert said.index("Making it ready") < waiting < done

    def test_who_need_not_wait_is_told_nothing_more(self, run, hello):
        assert run("install", "hello").stderr.endswith("Making it ready …\n")


class TestConfig:
    def test_it_is_kept(self, run, hello):
        run("install", "hello", "--config", "greeting=Hi = there", "--config", "a.b=")
        assert stored(run)[0]["config"] == {"greeting": "Hi = there", "a.b": ""}

    @pytest.mark.parametrize(
        "text",
        ["greeting", "=x", "Greeting=x", "a b=x", "a=line\nend", "a=\x00", "-a=x", "a=\x1b"],
    )
    def test_what_could_not_be_a_header_is_wrong_usage(self, run, hello, text):
        assert run("install", "hello", "--config", text).exit_code == 2
        assert stored(run) == []

    def test_twice_the_same_key_is_wrong_usage(self, run, hello):
        assert run("install", "hello", "--config", "a=1", "--config", "a=2").exit_code == 2


class TestSecrets:
    def reveal(self, run, key="key"):
        install = stored(run)[0]
        settings = Settings.from_env(os.environ)
        with closing(Installs.from_settings(settings)) as installs:
            return installs.secret(install["install_id"], key)

    def test_from_a_file_encrypted_at_rest(self, run, hello, folder, tmp_path):
        (folder / "secret").write_text(f"{SECRET}\n")
        said = run("install", "hello", "--secret", "key=@secret")
        assert said.exit_code == 0
        assert self.reveal(run) == SECRET
        for path in (tmp_path / "home").rglob("*"):
            assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path

    def test_from_standard_input(self, run, hello):
        run("install", "hello", "--secret", "key=-", input=f"{SECRET}\n")
        assert self.reveal(run) == SECRET

    def test_a_typed_value_is_refused_and_not_repeated(self, run, hello):
        said = run("install", "hello", "--secret", f"key={SECRET}")
        assert said.exit_code == 2
        assert "shell's history" in said.stderr
        assert SECRET not in said.output

    def test_a_file_that_is_not_there(self, run, hello):
        said = run("install", "hello", "--secret", "key=@nosuch")
        assert said.exit_code == 1
        assert "The secret key: nosuch: No such file" in said.stderr

    def test_their_names_are_listed_and_their_values_are_not(self, run, hello):
        run("install", "hello", "--secret", "key=-", input=SECRET)
        said = run("installs", "--json")
        assert json.loads(said.stdout)["installs"][0]["secrets"] == ["key"]
        assert SECRET not in said.stdout


class TestAgain:
    TERMS = (
        "--yes", "--config", "a=1", "--route", "GET /api/a", "--egress", "https://a.example",
        "--memory-mb", "64", "--timeout-ms", "900", "--secret", "key=-",
    )  # fmt: skip

    @pytest.fixture
    def first(self, run, hello):
        asking(hello, "cap:storage.kv", "cap:ui.proxy", "cap:secrets.get")
        assert run("install", "hello", *self.TERMS, input=SECRET).exit_code == 0
        return stored(run)[0]

    def test_a_new_version_keeps_the_terms(self, run, hello, first):
        asking(hello, "cap:storage.kv", "cap:ui.proxy", "cap:secrets.get", version="0.2.0")
        said = run("install", "hello")
        assert "Replaced 0.1.0 by demo.hello 0.2.0" in said.stdout
        assert "Kept from 0.1.0: 1 config value," in said.stderr
        now = stored(run)[0]
        changed = {"version", "content_hash", "page"}
        assert {key for key in now if now[key] != first[key]} == changed

    def test_what_is_given_is_added(self, run, hello, first):
        run("install", "hello", "--config", "b=2", "--secret", "other=-", input="x")
        now = stored(run)[0]
        assert now["config"] == {"a": "1", "b": "2"}
        assert now["secrets"] == ["key", "other"]

    def test_what_is_no_longer_asked_for_is_no_longer_granted(self, run, hello, first):
        asking(hello, "cap:ui.proxy")
        run("install", "hello")
        assert "cap:storage.kv" not in stored(run)[0]["grants"]

    def test_reset_starts_anew(self, run, hello, first):
        run("install", "hello", "--reset")
        now = stored(run)[0]
        assert (now["config"], now["routes"], now["secrets"]) == ({}, [], [])
        assert now["memory_mb"] is None
        assert "cap:storage.kv" not in now["grants"]


class TestUninstall:
    def test_it_is_gone(self, run, installed):
        said = run("uninstall", "demo.hello")
        assert said.stdout == "Uninstalled demo.hello 0.1.0 for the tenant default.\n"
        assert stored(run) == []

    def test_another_tenants_install_stays(self, run, hello, installed):
        run("install", "hello", "--tenant", "acme")
        assert run("uninstall", "demo.hello", "--json").exit_code == 0
        assert [one["tenant"] for one in stored(run)] == ["acme"]
        assert run("execute", "demo.hello", "GET", "/hello", "--tenant", "acme").exit_code == 0

    def test_what_is_not_installed_is_said_with_what_is(self, run, installed):
        said = run("uninstall", "demo.helo")
        assert said.exit_code == 1
        assert "demo.helo is not installed for the tenant default, which has demo.hello" in (
            said.stderr
        )


def test_the_list_as_a_table(run, hello, installed):
    run("install", "hello", "--tenant", "acme")
    head, *rows = run("installs").stdout.splitlines()
    assert head.split() == ["tenant", "extension", "version", "granted", "since"]
    assert [row.split()[:3] for row in rows] == [
        ["acme", "demo.hello", "0.1.0"],
        ["default", "demo.hello", "0.1.0"],
    ]
    assert len(run("installs", "--tenant", "acme").stdout.splitlines()) == 2


def test_an_empty_list_says_what_comes_next(run):
    assert "runnerwsgi new extension" in run("installs").stdout
