"""`execute` and `health`."""

import json
from base64 import b64decode

import pytest

from . import plugins

FIRST = "(i32.store16 (i32.const 512) (i32.const 200))"


@pytest.fixture
def answering(run, hello):
    """Install the extension with its handler's source changed, and an open manifest."""

    def change(old, new, **manifest):
        source = hello / "src/main.wat"
        assert old in source.read_text()
        source.write_text(source.read_text().replace(old, new))
        path = hello / "manifest.json"
        kept = json.loads(path.read_text())
        del kept["api"]
        path.write_text(json.dumps(kept | manifest))
        assert run("install", str(hello)).exit_code == 0

    return change


def test_status_headers_body_and_where_the_time_went(installed):
    said = installed("GET", "/hello?a=1&b=%20")
    assert said.exit_code == 0
    first, *rest = said.stdout.splitlines()
    assert first == "200 OK"
    assert "x-ext-method: GET" in rest
    assert "GET /hello?a=1&b=%20" in rest
    assert rest[-1].startswith("time ")
    assert " run " in rest[-1]


def test_for_programs(installed):
    answer = json.loads(installed("GET", "/hello", "--json").stdout)
    assert answer["status"] == 200
    assert answer["body"] == "GET /hello\n"
    assert ["x-ext-method", "GET"] in answer["headers"]
    assert (answer["outcome"], answer["error"]) == ("ok", None)
    assert answer["timings_ms"]["run"] >= 0


@pytest.mark.parametrize(
    ("data", "stdin", "body"),
    [("text", None, b"text"), ("@file", None, b"\x00\xff"), ("-", b"piped\x01", b"piped\x01")],
    ids=["typed", "from a file", "from standard input"],
)
def test_a_body(run, answering, folder, data, stdin, body):
    answering("i32.const 200", "i32.const 200")
    (folder / "file").write_bytes(b"\x00\xff")
    said = run("execute", "demo.hello", "POST", "/x", "--data", data, "--json", input=stdin)
    answer = json.loads(said.stdout)
    got = b64decode(answer["body_b64"]) if "body_b64" in answer else answer["body"].encode()
    assert got == body


def test_bytes_do_not_reach_the_terminal(run, answering, folder):
    answering("i32.const 200", "i32.const 200")
    (folder / "file").write_bytes(b"\x00\xff" * 700)
    said = run("execute", "demo.hello", "POST", "/", "--data", "@file")
    assert "(1.4 KiB of application/octet-stream)" in said.stdout


def test_the_installs_configuration_reaches_the_extension_and_headers_do(run, installed):
    assert installed("GET", "/hello", "--header", "X-Ext-Color: blue").exit_code == 0
    assert installed("GET", "/hello", "--header", "nonsense").exit_code == 2
    assert installed("GET", "/hello", "--header", "a: b\nc: d").exit_code == 2


@pytest.mark.parametrize(("status", "exit_code"), [(404, 0), (301, 0), (500, 1)])
def test_the_extensions_own_status(run, answering, status, exit_code):
    answering("i32.const 200", f"i32.const {status}")
    said = run("execute", "demo.hello", "GET", "/")
    assert said.stdout.startswith(f"{status} ")
    assert said.exit_code == exit_code


class TestFailures:
    def test_a_trap_is_told_as_a_browser_never_sees_it(self, run, answering):
        answering(FIRST, "unreachable")
        said = run("execute", "demo.hello", "GET", "/")
        assert said.exit_code == 1
        assert said.stdout.startswith("502 Bad Gateway\n")
        assert said.stderr.startswith("error: The extension failed: wasm trap")
        assert "guest-trap" in said.stderr
        assert "trap " not in said.stdout

    def test_the_frames_of_a_trap_are_for_those_who_debug(self, run, answering):
        answering(FIRST, "unreachable")
        said = run("execute", "demo.hello", "GET", "/", "--debug")
        assert "trap       error while executing" in said.stdout

    def test_and_what_was_not_granted_is_named_beside_it(self, run, answering):
        answering(FIRST, "unreachable", capabilities=["cap:storage.kv"])
        said = run("execute", "demo.hello", "GET", "/")
        assert "warning: cap:storage.kv is not granted" in said.stderr

    @pytest.mark.parametrize(
        "header", [(), ("--header", "Idempotency-Key: mine")], ids=["our key", "its own"]
    )
    def test_one_that_may_have_been_executed_comes_with_its_key(
        self, run, answering, header, tmp_path, monkeypatch
    ):
        answering(FIRST, FIRST)
        monkeypatch.syspath_prepend(plugins.install(tmp_path / "site"))
        call = ("execute", "demo.hello", "POST", "/", *header)
        said = run(*call, env={"RUNNER_BACKEND": "dead"})
        assert said.exit_code == 1
        assert "(504, outcome-unknown). To ask again: --header 'Idempotency-Key: " in said.stderr
        assert ("Key: mine'" in said.stderr) == bool(header)

    def test_for_programs(self, run, answering):
        answering(FIRST, "unreachable")
        said = run("execute", "demo.hello", "GET", "/", "--json")
        assert said.exit_code == 1
        answer = json.loads(said.stdout)
        assert (answer["status"], answer["outcome"]) == (502, "guest_trap")
        assert "unreachable" in answer["error"]

    def test_an_endless_loop_is_stopped(self, run, answering):
        answering(FIRST, "(loop $again (br $again)) unreachable")
        said = run("execute", "demo.hello", "GET", "/", env={"RUNNER_TIMEOUT_MS": "400"})
        assert said.exit_code == 1
        assert said.stdout.startswith("504 ")
        assert "guest-timeout" in said.stderr

    @pytest.mark.parametrize(
        ("typed", "status", "reason"),
        [
            (("GET", "/nosuch"), 404, "the manifest does not name this route"),
            (("GET", "/hello", "--user", ""), 401, "needs a user"),
            (("GET", "/a/../b"), 400, "dot segment"),
        ],
    )
    def test_a_call_that_was_refused(self, installed, typed, status, reason):
        said = installed(*typed)
        assert said.exit_code == 1
        assert said.stdout.startswith(f"{status} ")
        assert reason in said.stderr
        assert said.stderr.count("\n") == 1

    def test_an_extension_that_is_not_installed(self, run, installed):
        said = run("execute", "demo.nosuch", "GET", "/")
        assert said.exit_code == 1
        assert said.stdout == ""
        assert "which has demo.hello" in said.stderr

    @pytest.mark.parametrize("typed", [("BREW", "/"), ("GET", "hello")], ids=["method", "path"])
    def test_wrong_usage(self, installed, typed):
        assert installed(*typed).exit_code == 2


@pytest.mark.parametrize(("roles", "status"), [((), 403), (("--role", "admin"), 200)])
def test_roles(run, answering, roles, status):
    endpoint = {"method": "GET", "path": "/", "access": "admin"}
    answering("i32.const 200", "i32.const 200", api={"endpoints": [endpoint]})
    said = run("execute", "demo.hello", "GET", "/", *roles)
    assert said.stdout.startswith(f"{status} ")


class TestHealth:
    def test_of_a_backend_that_is_well(self, run):
        said = run("health")
        assert said.exit_code == 0
        assert said.stdout.startswith("wasm: ok\n")

    def test_for_programs(self, run):
        found = json.loads(run("health", "--json").stdout)
        assert (found["backend"], found["status"]) == ("wasm", "ok")
        assert "engine" in found["checks"]

    def test_of_one_that_is_not(self, run, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(plugins.install(tmp_path / "site"))
        said = run("health", env={"RUNNER_BACKEND": "dead"})
        assert said.exit_code == 1
        assert said.stdout.startswith("dead: unavailable\n")
        assert "gone" in said.stdout
