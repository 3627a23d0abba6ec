"""The command line as its users type it: in a folder of its own, with a home of its own."""

import os
from functools import partial

import pytest
from click.testing import CliRunner
from servers import compiled

from runnerwsgi.cli import cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, and an environment without anybody's settings.

    Compiled code is kept for all tests, as for the runners: compiling is not what they are about.
    """
    for name in [name for name in os.environ if name.startswith("RUNNER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNNER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNNER_BACKEND", "wasm")
    monkeypatch.setenv("RUNNER_WASM_CACHE_DIR", compiled())
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def own_code(folder, monkeypatch):
    """Compiled code lies in the home, as a user has it, and nothing is compiled yet."""
    monkeypatch.delenv("RUNNER_WASM_CACHE_DIR")


@pytest.fixture
def run(folder):
    """Type a command: ``run("new", "extension", "hello")``; the result has both streams."""
    runner = CliRunner()
    return lambda *args, **options: runner.invoke(cli, args, prog_name="runnerwsgi", **options)


@pytest.fixture
def hello(run, folder):
    """The folder of an extension that needs no compiler to speak of."""
    assert run("new", "extension", "hello", "--template", "wat").exit_code == 0
    return folder / "hello"


@pytest.fixture
def installed(run, hello):
    """That extension, installed; calls it: ``installed("GET", "/hello")``."""
    assert run("install", str(hello)).exit_code == 0
    return partial(run, "execute", "demo.hello")
