"""`parity`: what is planted is found, and nothing else."""

import json
from contextlib import closing

import mirror
import pytest
from faulty_runner import FAULTS, faulty_runner
from peers import unused_port
from rust_runner import RustRunner

from runnerwsgi import Installs, Settings


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home in which the extension is installed, and compiled once."""
    home = tmp_path_factory.mktemp("home")
    mirror.install(home, tmp_path_factory.mktemp("source"))
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


def test_questions_come_here_and_not_to_the_application(parity, home, recorded, monkeypatch):
    monkeypatch.setenv("RUNNER_CALLBACK_BASE", "http://127.0.0.1:9")
    with RustRunner(home) as rust:
        parity(rust.url, "--recorded-only", *recorded({"path": "/things/1"}))
        calls = [json.loads(body) for method, _, _, body in rust.asked if method == "POST"]
    assert [call["callback"]["url"][:7] for call in calls if "callback" in call] == ["unix://"]


def test_the_folder_of_an_extension_names_it_and_has_its_requests(parity, runner, folder):
    (folder / "manifest.json").write_text(json.dumps(mirror.MANIFEST))
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

    def test_a_backend_that_cannot_be_asked_is_one_error_and_no_table(self, parity):
        said = parity(f"http://127.0.0.1:{unused_port()}")
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
