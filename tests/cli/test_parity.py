"""`parity`: what is planted is found, and nothing else."""

import json
import socket
from contextlib import closing

import pytest
from faulty_runner import FAULTS, faulty_runner
from rust_runner import RustRunner
from support import pack_files
from wasm.rig import LOG, Import, guest
from wasmtime import wat2wasm

from runnerwsgi import Gateway, Installs, Settings
from runnerwsgi.protocol import Bundle
from runnerwsgi.stores import open_store

RANDOM = Import(
    "wasi:random/random@0.2.0",
    '(export "get-random-u64" (func (result u64)))',
    "get-random-u64",
    "(result i64)",
)
# The texts of four headers at 1088, and where each is: name, its size, value, its size.
NAMES = "content-typetext/plain; charset=utf-8x-ext-twoonex-ext-count0two"
PLACES = (
    *(1088, 12, 1100, 25),
    *(1125, 9, 1134, 3),
    *(1125, 9, 1149, 3),
    *(1137, 11, 1148, 1),
)
HEADERS = "".join(f"\\{byte:02x}" for place in PLACES for byte in place.to_bytes(4, "little"))
# Answers with the request's body, or its URL where there is none; the headers say more. Logs
# the URL. Traps at an address that begins with /b; answers with eight bytes of chance at /c….
MIRROR = guest(
    """
    (if (i32.eq (i32.load8_u (i32.add (i32.load offset=60 (local.get $request)) (i32.const 1)))
        (i32.const 98)) (then unreachable))
    (call $f0 (i32.load offset=60 (local.get $request)) (i32.load offset=64 (local.get $request)))
    (i32.store16 (i32.const 512) (i32.const 200))
    (i32.store (i32.const 516) (i32.const 544)) (i32.store (i32.const 520) (i32.const 4))
    (memory.copy (i32.const 544) (i32.const 1024) (i32.const 64))
    (i32.store8 (i32.const 1148) (i32.add (i32.const 48) (i32.load offset=72 (local.get $request))))
    (i32.store8 (i32.const 524) (i32.const 1))
    (if (i32.load8_u offset=76 (local.get $request))
      (then (i64.store (i32.const 528) (i64.load offset=80 (local.get $request))))
      (else (i64.store (i32.const 528) (i64.load offset=60 (local.get $request)))))
    (if (i32.eq (i32.load8_u (i32.add (i32.load offset=60 (local.get $request)) (i32.const 1)))
        (i32.const 99))
      (then
        (i64.store (i32.const 1200) (call $f1))
        (i64.store (i32.const 528) (i64.const 0x8000004b0))))
    (i32.const 512)""",
    imports=(LOG, RANDOM),
    data=f'(data (i32.const 1088) "{NAMES}") (data (i32.const 1024) "{HEADERS}")',
)
ENDPOINTS = [
    {"method": "GET", "path": "/things/:id"},
    {"method": "POST", "path": "/things"},
    {"method": "GET", "path": "/boom"},
    {"method": "GET", "path": "/chance"},
]
MANIFEST = {
    "name": "demo.mirror",
    "version": "1.0.0",
    "runtime": "wasm@1",
    "api": {"endpoints": [{**each, "handler": "dist/main"} for each in ENDPOINTS]},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home in which the extension is installed, and compiled once."""
    home = tmp_path_factory.mktemp("home")
    env = {"RUNNER_HOME": str(home), "RUNNER_BACKEND": "wasm"}
    files = {"manifest.json": json.dumps(MANIFEST).encode(), "dist/main.wasm": wat2wasm(MIRROR)}
    settings, gateway = Gateway.configure(env)
    settings.make_home()
    with gateway, closing(Installs.from_settings(settings)) as installs:
        bundle = open_store(settings).add(pack_files(tmp_path_factory.mktemp("source"), files))
        installs.add("default", "demo.mirror", bundle.content_hash, bundle.manifest)
        gateway.probe(30_000)
        gateway.warm_up(Bundle("default", "demo.mirror", bundle.content_hash))
    return home


@pytest.fixture
def parity(run, home, monkeypatch):
    """Compare wasm with a remote runner: ``parity(url, …)``."""
    monkeypatch.setenv("RUNNER_HOME", str(home))

    def compare(url, *options, backends="wasm,docker", extension="demo.mirror"):
        env = {"RUNNER_DOCKER_HOST": url}
        return run("parity", extension, "--backends", backends, *options, env=env)

    return compare


@pytest.fixture(scope="module")
def runner(home):
    """The address of a runner that does everything right."""
    with faulty_runner(home) as url:
        yield url


@pytest.fixture
def recorded(folder):
    """Write a file of requests, and name it as an option."""

    def write(*lines):
        path = folder / "requests.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return "--requests", str(path)

    return write


def test_a_runner_of_ours_answers_alike(parity, runner):
    said = parity(runner)
    assert said.exit_code == 0, said.output
    assert said.stdout == "demo.mirror on wasm and docker: no difference in 27 requests.\n"


@pytest.mark.parametrize(("field", "fault"), FAULTS.values(), ids=FAULTS)
def test_what_is_planted_is_found(parity, home, field, fault):
    with faulty_runner(home, fault) as url:
        said = parity(url, "--json")
    assert said.exit_code == 1, said.output
    found = json.loads(said.stdout)["differences"]
    assert field in {each["field"] for each in found}
    assert {each["backend"] for each in found} == {"docker"}


def test_differences_are_shown_in_a_table(parity, home, recorded):
    fault = FAULTS["another status"][1]
    with faulty_runner(home, fault) as url:
        said = parity(url, "--recorded-only", *recorded({"path": "/things/1"}))
    assert said.stdout.splitlines() == [
        "request        differs in  wasm  backend  there",
        "GET /things/1  status      200   docker   201",
        "demo.mirror on wasm and docker: 1 difference in 1 request.",
    ]


def test_alga_psas_runner_differs_where_it_is_known_to(parity, home):
    with closing(Installs.from_settings(Settings(home=home))) as installs:
        content_hash = installs.get("default", "demo.mirror").content_hash
    with RustRunner(home) as rust:
        rust.published.add(("default", "demo.mirror", content_hash))
        said = parity(rust.url, "--json")
    found = json.loads(said.stdout)["differences"]
    assert {each["field"] for each in found} == {"body", "header x-ext-two", "log 1"}
    assert all("query" in each["request"] for each in found if each["field"] == "body")


def test_the_folder_of_an_extension_names_it_and_has_its_requests(parity, runner, folder):
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "parity.jsonl").write_text('{"method": "POST", "path": "/things", "body": "hi"}')
    said = parity(runner, "--recorded-only", "--json", extension=".")
    assert json.loads(said.stdout)["requests"] == ["POST /things"]


def test_requests_are_recorded_by_calling(run, parity, runner, folder):
    call = ("execute", "demo.mirror", "POST", "/things", "--data", "hi", "--role", "admin")
    assert run(*call, "--header", "Accept: a/b", "--record", "requests.jsonl").exit_code == 0
    assert run("execute", "demo.mirror", "GET", "/boom", "--record", "requests.jsonl").exit_code
    said = parity(runner, "--recorded-only", "--requests", "requests.jsonl")
    assert said.stdout.endswith("no difference in 2 requests.\n")


def test_what_changes_by_itself_is_not_compared(parity, runner, recorded):
    options = ("--recorded-only", *recorded({"path": "/chance"}))
    said = parity(runner, *options)
    assert said.exit_code == 0, said.output
    assert "Not compared: 1 value of another content each time" in said.stderr
    assert json.loads(parity(runner, *options, "--json").stdout)["varying"] == {
        "GET /chance": ["body"]
    }


class TestFailures:
    @pytest.mark.parametrize(
        ("backends", "told"),
        [("wasm", "two or more"), ("wasm,wasm", "each once"), ("wasm,nosuch", "nosuch")],
    )
    def test_backends_that_cannot_be_compared(self, parity, backends, told):
        said = parity("http://127.0.0.1:9", backends=backends)
        assert said.exit_code in (1, 2)
        assert told in said.stderr

    def test_a_backend_that_cannot_be_asked_is_one_error_and_no_table(self, parity, unused_port):
        said = parity(f"http://127.0.0.1:{unused_port}")
        assert said.exit_code == 1
        assert said.stdout == ""
        assert "runnerwsgi docker up" in said.stderr

    def test_an_extension_that_is_not_installed(self, parity, runner):
        said = parity(runner, extension="demo.nosuch")
        assert said.exit_code == 1
        assert "which has demo.mirror" in said.stderr

    def test_nothing_to_compare(self, parity, runner):
        said = parity(runner, "--recorded-only")
        assert said.exit_code == 1
        assert "--requests" in said.stderr

    def test_a_file_of_requests_with_a_mistake(self, parity, runner, recorded):
        said = parity(runner, *recorded({"path": "things"}))
        assert said.exit_code == 1
        assert "requests.jsonl, line 1: path is a text" in said.stderr


@pytest.fixture
def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
