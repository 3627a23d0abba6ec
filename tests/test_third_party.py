"""A third party's backend: built, installed beside us, found by name, and it keeps the contract."""

import json
import os
import sys
import venv

import pytest
from wheels import ROOT, build_wheel, run

pytestmark = pytest.mark.slow

ECHO = ROOT / "examples" / "runnerwsgi-echo"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, wheel):
    """The python of a virtual environment that has our wheel, the echo's and pytest only."""
    folder = tmp_path_factory.mktemp("fresh")
    names = ("pyproject.toml", "README.md", "runnerwsgi_echo.py")
    echo = build_wheel(ECHO, folder / "echo", names)
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "-q", wheel, f"{echo}[test]")
    return python


@pytest.fixture
def env(tmp_path):
    """An environment that names the echo, and nothing of this working tree."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    clean.pop("PYTHONPATH", None)
    return clean | {"RUNNER_BACKEND": "echo", "RUNNER_HOME": str(tmp_path / "home")}


def test_it_is_short():
    assert len((ECHO / "runnerwsgi_echo.py").read_text().splitlines()) < 80


def test_its_own_tests_pass(fresh, env, tmp_path):
    told = run(fresh, "-m", "pytest", "-q", ECHO / "tests", "-c", ECHO / "pyproject.toml",
               "-p", "no:cacheprovider", cwd=tmp_path, env=env)  # fmt: skip
    assert " passed" in told
    assert "skipped" not in told


def test_it_is_found_by_name(fresh, env, tmp_path):
    command = fresh.with_name("runnerwsgi")
    told = json.loads(run(command, "plugins", "--json", cwd=tmp_path, env=env))
    assert {"echo", "wasm"} <= {plugin["name"] for plugin in told["plugins"]}


def test_it_answers_through_a_gateway_from_the_environment(fresh, env, tmp_path):
    code = (
        "from runnerwsgi import ExecuteRequest, Gateway\n"
        "from runnerwsgi.protocol import Context, HttpRequest, Limits\n"
        "request = ExecuteRequest(Context('acme', 'demo.echo', 'sha256:' + '0' * 64),\n"
        "    HttpRequest('POST', '/', body=b'hello'), Limits(1000))\n"
        "with Gateway.from_env() as gateway:\n"
        "    print(gateway.backend_name, gateway.execute(request).body)\n"
    )
    assert run(fresh, "-c", code, cwd=tmp_path, env=env) == "echo b'hello'\n"


@pytest.mark.parametrize("name", ["tests", "plugins", "benchmarks", "scripts", "examples"])
def test_our_other_folders_are_not_importable(fresh, env, tmp_path, name):
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert run(fresh, "-c", code, cwd=tmp_path, env=env) == "None\n"


def test_the_backend_wasm_says_what_to_install(fresh, env, tmp_path):
    # The wheel was installed without its extra: naming the engine must tell, not trace back.
    code = (
        "from runnerwsgi import ConfigurationError, Gateway\n"
        "try: Gateway.from_env()\n"
        "except ConfigurationError as exc: print(exc)\n"
    )
    told = run(fresh, "-c", code, cwd=tmp_path, env=env | {"RUNNER_BACKEND": "wasm"})
    assert "pip install 'runnerwsgi[wasm]'" in told


def test_it_runs_on_the_python_of_this_run(fresh):
    code = "import sys; print(sys.version_info[:2])"
    assert run(fresh, "-c", code) == f"{sys.version_info[:2]}\n"
