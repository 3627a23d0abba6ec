"""A real Docker Engine for tests: the runner's image, built once a run, and containers of it."""

import hashlib
import http.client
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from wheels import ROOT

WHEELS = ROOT / ".cache" / "wheels"
# What scripts/docker-engine makes where no registry can be reached.
LOCAL_BASE = "localbase:bookworm"
START_SECONDS = 60


@pytest.fixture(scope="session")
def engine():
    """The Docker Engine; without one the test is skipped, and fails in a strict run."""
    from runnerwsgi_docker.engine import Engine, EngineError

    found = Engine()
    try:
        found.run("version")
    except EngineError as exc:
        pytest.skip(str(exc))
    return found


@pytest.fixture(scope="session")
def recipe(engine):
    """How the tests build the image: from wheels alone, under a name of this checkout's."""
    from runnerwsgi_docker import image
    from runnerwsgi_docker.engine import EngineError

    local = LOCAL_BASE if engine.inspect("image", LOCAL_BASE) else image.DEFAULT_BASE
    base = os.environ.get("RUNNER_DOCKER_BASE", local)
    wheels = os.environ.get("RUNNER_DOCKER_WHEELS", WHEELS / base.replace("/", "-"))
    place = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    recipe = image.Recipe(f"runnerwsgi-tests:{place}", base, Path(wheels))
    try:
        image.prepare(engine, recipe)
    except EngineError as exc:
        if exc.kind not in ("no-registry", "no-image"):
            raise
        pytest.skip(f"{exc} ./scripts/docker-engine makes a base where no registry is reached.")
    return recipe


@pytest.fixture(scope="session")
def image(engine, recipe):
    """The runner's image, built from this checkout; its name."""
    from runnerwsgi_docker.image import build

    build(engine, recipe)
    return recipe.tag


class Container:
    """A container of the runner's image, with its port on loopback."""

    def __init__(self, engine, name):
        self.engine, self.name = engine, name

    @property
    def facts(self):
        return self.engine.inspect("container", self.name)

    @property
    def port(self):
        return int(self.facts["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"])

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def send(self, method="GET", path="/", body=None, headers=None, timeout=10):
        """One request on a connection of its own: status, headers by lower-case name, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def logs(self):
        return "\n".join(self.engine.lines("logs", self.name))

    def wait_until_ready(self, seconds=START_SECONDS):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.facts["State"]
            assert state["Running"], f"it ended with {state['ExitCode']}:\n{self.logs()}"
            try:
                if self.send(path="/health/readiness", timeout=2)[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready within {seconds} s: {json.dumps(state)}\n{self.logs()}")


# As `runnerwsgi docker up` hardens it.
HARDENED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=128",
    "--memory=1g",
    "--cpus=2",
)


@contextmanager
def container(engine, image, name, *options, port="127.0.0.1::8080"):
    """Run a container of *image* until the block ends; it is ready when the block begins."""
    engine.run(
        *("run", "--detach", "--name", name, f"--publish={port}", *HARDENED, *options, image)
    )
    started = Container(engine, name)
    try:
        started.wait_until_ready()
        yield started
    finally:
        engine.run("rm", "--force", "--volumes", name)
