"""compose.yaml: valid, as hard as `runnerwsgi docker up`, and run by docker-compose."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import jsonschema
import pytest
import yaml
from peers import unused_port
from wasm import toolchains
from wheels import ROOT

# Debian's docker-compose brings the Compose Specification's schema.
SCHEMA = Path("/usr/lib/python3/dist-packages/compose/config/compose_spec.json")
# Docker looks at a container's health when one interval has passed, and the application waits.
OFTEN = """
services:
  extension-runner: {healthcheck: {interval: 1s}}
"""
DRIVE = """
import sys
from demo_check import drive
sys.exit(not drive("localhost", int(sys.argv[1]), "Welcome back", "docker"))
"""


class Project:
    """A folder with compose.yaml, .env and the example application."""

    def __init__(self, box):
        self.box, self.folder, self.port = box, box.folder, unused_port()
        self.application = f"{box.name}-application"
        lines = {
            "COMPOSE_PROJECT_NAME": box.name,
            "APPLICATION_IMAGE": self.application,
            "APPLICATION_PORT": self.port,
        }
        (self.folder / "compose.yaml").write_text(box.docker("compose").stdout)
        env = box.docker("compose", "--env").stdout
        env += "".join(f"{name}={value}\n" for name, value in lines.items())
        (self.folder / ".env").write_text(env)

    def compose(self, *args):
        outer = {name: value for name, value in os.environ.items() if "RUNNER_" not in name}
        ran = subprocess.run(
            ["docker-compose", "--profile=application", *args],
            cwd=self.folder,
            env=outer,
            text=True,
            capture_output=True,
            timeout=240,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def facts(self, service):
        return self.box.engine.inspect("container", self.compose("ps", "-q", service).strip())


@pytest.fixture
def project(box):
    return Project(box)


@pytest.fixture
def up(project, engine, recipe):
    """The project with its application, both running."""
    (project.folder / "compose.override.yaml").write_text(OFTEN)
    shutil.copytree(ROOT / "examples" / "flask_app", project.folder / "application")
    wheels = project.folder / "application" / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    pip += ["--no-deps", "--dest", str(wheels), "flask", "jinja2", "itsdangerous", "blinker"]
    subprocess.run(pip, check=True)
    shutil.copytree(recipe.wheels, wheels, dirs_exist_ok=True)
    # Where the container finds it, too.
    bundle = project.box.home / "notes.bundle"
    done = project.box.type("pack", toolchains.notes(project.folder / "notes"), "--output", bundle)
    assert done.exit_code == 0, done.output
    arguments = {"RUNNER": recipe.tag, "PIP_NO_INDEX": "1"}
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    folder = str(project.folder / "application")
    try:
        engine.run("build", "--tag", project.application, *options, folder, timeout=300)
        project.compose("up", "--detach")
        wait_for(200, f"http://localhost:{project.port}/login")
        install = ("runnerwsgi", "install", "/home/runner/notes.bundle", "--yes")
        project.compose("exec", "-T", "application", *install, *NOTES)
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "5")
        if engine.inspect("image", project.application):
            engine.run("image", "rm", project.application)


def wait_for(status, url, seconds=60):
    end = time.monotonic() + seconds
    while (found := status_of(url)) != status:
        assert time.monotonic() < end, found
        time.sleep(0.2)


def status_of(url):
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status
    except HTTPError as answer:
        answer.close()
        return answer.code
    except OSError as exc:
        return str(exc)


NOTES = ("--config", "greeting=Welcome back")


def read(project):
    return yaml.safe_load((project.folder / "compose.yaml").read_text())


@pytest.mark.compose
def test_it_is_valid(project):
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(read(project))
    resolved = yaml.safe_load(project.compose("config"))
    assert set(resolved["services"]) == {"extension-runner", "application"}
    (named,) = resolved["services"]["application"]["profiles"]
    assert named == "application"


@pytest.mark.parametrize("service", ["extension-runner", "application"])
def test_every_service_is_as_hard_as_up_makes_it(project, service):
    found = read(project)["services"][service]
    assert found["read_only"]
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["tmpfs"][0] == "/tmp:rw,noexec,nosuid,nodev,size=64m,mode=1777"
    assert found["restart"] == "unless-stopped"
    assert {"mem_limit", "memswap_limit", "cpus", "pids_limit", "user"} <= set(found)
    assert "docker.sock" not in json.dumps(found)
    assert all(port.startswith("127.0.0.1:") for port in found.get("ports", ()))


def test_it_says_the_same_as_up(project):
    from runnerwsgi_docker import container

    runner = read(project)["services"]["extension-runner"]
    said = {option.partition("=")[2] for option in container.HARDENING}
    assert {runner["user"], *runner["tmpfs"], *runner["security_opt"], *runner["cap_drop"]} <= said
    assert runner["stop_grace_period"] == f"{container.STOP_SECONDS}s"
    targets = {one["target"] for one in runner["volumes"]}
    assert targets == {container.BUNDLES, container.CACHE}
    assert runner["environment"]["RUNNER_SERVICE_TOKEN_FILE"] == container.TOKEN


def test_the_runner_is_in_a_network_that_leads_nowhere(project):
    found = read(project)
    assert found["services"]["extension-runner"]["networks"] == ["extensions"]
    assert "ports" not in found["services"]["extension-runner"]
    assert found["networks"]["extensions"] == {"internal": True}


@pytest.mark.compose
def test_the_example_uses_its_runner_without_a_port_of_the_host(up):
    ran = subprocess.run(
        [sys.executable, "-c", DRIVE, str(up.port)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr + up.compose("logs")
    runner = up.facts("extension-runner")
    assert runner["State"]["Health"]["Status"] == "healthy"
    assert not runner["HostConfig"]["PortBindings"]
    assert runner["HostConfig"]["ReadonlyRootfs"]
    assert runner["HostConfig"]["Memory"] == 2 << 30
    token = (up.box.home / "docker" / "token").read_text().strip()
    assert token not in json.dumps([runner, up.facts("application")])
    # Without its runner the application's own pages answer, and it says what is wrong.
    up.compose("stop", "--timeout", "5", "extension-runner")
    wait_for(503, f"http://localhost:{up.port}/runner/healthz")
    wait_for(200, f"http://localhost:{up.port}/login", seconds=0)
