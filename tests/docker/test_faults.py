"""Faults of a real container under a real application: what callers see, and that it passes."""

import contextlib
import http.server
import json
import os
import signal
import subprocess
import threading
import time

import pytest
from containers import Container, container
from peers import unused_port
from servers import BIN, serving
from support import FILES, in_thread, pack_files
from switching import until
from wasm.rig import guest
from wheels import ROOT

from runnerwsgi import ExecuteRequest, Gateway, Installs, Settings
from runnerwsgi.errors import StorageError
from runnerwsgi.protocol import Context, HttpRequest, Limits
from runnerwsgi.stores import open_store
from runnerwsgi.wit import ECHO

pytestmark = pytest.mark.slow

SECONDS = 3  # RUNNER_TIMEOUT_MS of the application
APPLICATION = """
import logging
from support import host_app
from runnerwsgi import RunnerMiddleware
logging.basicConfig(level="INFO")
application = RunnerMiddleware.from_env(host_app)
"""
LOOP = guest("(loop $again (br $again)) unreachable")
# 900 MB, each page of it written: more than the container may have.
HOG = guest(
    """(drop (memory.grow (i32.const 14000)))
    (memory.fill (i32.const 65536) (i32.const 1) (i32.const 900000000))
    (i32.store16 (i32.const 512) (i32.const 200)) (i32.const 512)"""
)
GUESTS = {"acme.echo": ECHO.read_text("utf-8"), "acme.loop": LOOP, "acme.hog": HOG}


class World:
    """An application, its container, and what a user types about it."""

    def __init__(self, folder, engine, image, name):
        self.engine, self.name, self.port = engine, name, unused_port()
        self.home = folder / "home"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("RUNNER_")}
        self.env = clean | {
            "RUNNER_BACKEND": "docker",
            "RUNNER_HOME": str(self.home),
            "RUNNER_IDENTITY": "local",
            "RUNNER_TIMEOUT_MS": str(SECONDS * 1000),
            "RUNNER_DOCKER_CONTAINER": name,
            "RUNNER_DOCKER_IMAGE": image,
            "RUNNER_DOCKER_MEMORY": "400m",
            "RUNNER_DOCKER_HOST": f"http://127.0.0.1:{self.port}",
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'tests'}",
        }
        self.container = Container(engine, name)
        self.install(folder)

    def install(self, folder):
        settings = Settings(home=self.home)
        store, installs = open_store(settings), Installs.from_settings(settings)
        for extension, wat in GUESTS.items():
            manifest = json.dumps({"name": extension, "version": "1.0.0"}).encode()
            files = {**FILES, "manifest.json": manifest, "dist/main.wasm": component(wat)}
            bundle = store.add(pack_files(folder / extension, files))
            digests = {"ui_digests": bundle.ui_digests, "memory_mb": 1024}
            installs.add("default", extension, bundle.content_hash, bundle.manifest, **digests)
        installs.close()

    def docker(self, *words, status=0):
        """`runnerwsgi docker …`; gives what it said."""
        done = subprocess.run(
            [BIN / "runnerwsgi", "docker", *words], env=self.env, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def call(self, extension="acme.echo", method="POST", body=b"hello"):
        """A handler call of the application's own page: status, code or body, seconds."""
        started = time.monotonic()
        status, headers, found = self.app.send(
            method, f"/api/ext/{extension}/", body, Sec_Fetch_Site="same-origin"
        )
        problem = headers["content-type"] == "application/problem+json"
        assert headers["x-runner-backend"] == "docker"
        return status, json.loads(found)["code"] if problem else found, time.monotonic() - started

    def request(self, extension):
        with contextlib.closing(Installs.from_settings(Settings(home=self.home))) as installs:
            found = installs.get("default", extension)
        return ExecuteRequest(
            Context("default", extension, found.content_hash),
            HttpRequest("POST", "/", body=b"hello"),
            Limits(15_000),
        )

    def works(self):
        return self.call()[:2] == (200, b"hello")

    def works_again(self, within=30):
        end = time.monotonic() + within
        while not self.works():
            assert time.monotonic() < end, self.container.logs()
            time.sleep(0.1)

    def host_answers(self):
        started = time.monotonic()
        status, _, body = self.app.send(path="/")
        return (status, body) == (200, b"host") and time.monotonic() - started < 1

    def health(self):
        return json.loads(self.app.send(path="/runner/healthz")[2])


def component(wat):
    import wasmtime

    return bytes(wasmtime.wat2wasm(wat))


@pytest.fixture(scope="module")
def world(tmp_path_factory, engine, image):
    folder = tmp_path_factory.mktemp("world")
    (folder / "application.py").write_text(APPLICATION)
    world = World(folder, engine, image, f"{image.replace(':', '-')}-faults")
    world.docker("up")
    try:
        command = ("waitress-serve", "--listen=127.0.0.1:0", "application:application")
        with serving(*command, cwd=folder, env=world.env) as world.app:
            yield world
    finally:
        world.docker("down", "--volume")


@pytest.fixture(autouse=True)
def before_and_after(world):
    """Each fault begins and ends with an application that works, and is never restarted."""
    world.works_again()
    yield
    assert world.host_answers()
    world.works_again()
    assert world.app.process.poll() is None


def test_a_paused_container_costs_a_caller_the_deadline_and_no_more(world):
    world.engine.run("pause", world.name)
    try:
        waiting = threading.Thread(target=world.call)
        waiting.start()
        assert world.host_answers()
        status, code, took = world.call()
        waiting.join()
        assert (status, code) == (504, "deadline-exceeded")
        assert SECONDS - 0.5 < took < SECONDS + 2
    finally:
        world.engine.run("unpause", world.name)


def test_a_killed_runner_is_started_again_and_its_callers_know_at_once(world):
    answers = []
    caller = threading.Thread(target=lambda: answers.append(world.call("acme.loop")))
    caller.start()
    time.sleep(0.5)
    os.kill(world.container.facts["State"]["Pid"], signal.SIGKILL)
    caller.join()
    [(status, code, took)] = answers
    # It was being executed: nobody can say whether it was finished.
    assert (status, code) == (504, "outcome-unknown")
    assert took < SECONDS
    world.works_again()
    assert world.container.facts["RestartCount"] >= 1


def test_a_restart_under_load_fails_only_what_came_while_nobody_was_there(world):
    answers, stop = [], threading.Event()

    def call():
        while not stop.is_set():
            answers.append(world.call())

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        time.sleep(0.5)
        world.docker("restart")
        time.sleep(0.5)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    seen = {(status, found) for status, found, _ in answers}
    # Nothing that was sent is lost, and nobody waits: the rest was not executed, and says so.
    assert seen <= {
        (200, b"hello"),
        (502, "backend-unreachable"),
        (503, "backend-starting"),
    }
    assert max(took for *_, took in answers) < SECONDS
    good = [status == 200 for status, *_ in answers]
    # Callers wait for it; one that is not back within their time costs each a call, or two.
    assert good.count(False) <= 6
    assert good[0]
    assert good[-1]


def test_a_guest_for_which_the_kernel_kills_the_runner_costs_its_own_caller(world):
    status, code, _ = world.call("acme.hog")
    assert status in (502, 504), code
    assert code in ("outcome-unknown", "guest-out-of-memory")
    world.works_again()
    assert world.container.facts["State"]["Running"]


def test_a_lost_network_is_told_and_comes_back(world):
    [network] = world.container.facts["NetworkSettings"]["Networks"]
    world.engine.run("network", "disconnect", network, world.name)
    try:
        _, code, took = world.call()
        assert code in ("backend-unreachable", "deadline-exceeded", "backend-starting")
        assert took < SECONDS + 2
        assert world.host_answers()
    finally:
        world.engine.run("network", "connect", network, world.name)


def test_a_wrong_token_is_told_as_such_and_mended_without_a_restart(world):
    token = world.home / "docker" / "token"
    right = token.read_text()
    token.write_text("b" * 40)
    try:
        status, code, _ = world.call()
        assert (status, code) == (502, "bad-runner-response")
        assert world.health()["status"] == "unavailable"
        assert "differs" in world.docker("status", status=1)
        until(lambda: any("token" in line for line in world.app.said))
    finally:
        token.write_text(right)


def test_another_program_on_the_port_is_no_runner(world):
    world.docker("down")
    try:
        with other_program(world.port):
            status, code, took = world.call()
            assert (status, code) == (502, "bad-runner-response")
            assert took < SECONDS
            said = world.docker("up", status=1)
            assert str(world.port) in said
            assert "Traceback" not in said
    finally:
        world.docker("up")


def test_an_old_image_still_executes_and_is_told(world, image, tmp_path):
    old = f"{image}-old"
    package = "/opt/runnerwsgi/lib/python3.11/site-packages/runnerwsgi"
    (tmp_path / "_version.py").write_text('__version__ = "0.0.1"\n')
    recipe = f"FROM {image}\nCOPY _version.py {package}/\n"
    (tmp_path / "Dockerfile").write_text(recipe)
    world.engine.run("build", "--quiet", f"--tag={old}", str(tmp_path))
    world.env["RUNNER_DOCKER_IMAGE"] = old
    try:
        world.docker("up")
        world.works_again()
        said = world.docker("status", status=1)
        assert "0.0.1" in said
        assert "up --build" in said
    finally:
        world.env["RUNNER_DOCKER_IMAGE"] = image
        world.docker("up")
        world.engine.run("image", "rm", "--force", old)


def test_a_full_disk_under_the_compiled_code_is_told_and_passes(engine, image, world):
    cache = "--tmpfs=/var/lib/runnerwsgi:rw,exec,size=2m,mode=0700,uid=65532,gid=65532"
    bundles = f"--volume={world.home / 'bundles'}:/bundles:ro"
    junk = "/var/lib/runnerwsgi/junk"
    fill = (
        f"import contextlib\nwith contextlib.suppress(OSError), open({junk!r}, 'wb', 0) as file:\n"
    )
    fill += "    while True: file.write(bytes(4096))"
    name = f"{image.replace(':', '-')}-full"
    with container(engine, image, name, cache, bundles) as full:
        gateway = Gateway.from_env({"RUNNER_BACKEND": "docker", "RUNNER_DOCKER_HOST": full.url})
        with gateway:
            inside(engine, name, fill)
            with pytest.raises(StorageError, match="disk"):
                raise AssertionError(gateway.execute(world.request("acme.echo")))
            assert full.send(path="/health/liveness")[0] == 200
            inside(engine, name, f"import os; os.unlink({junk!r})")
            assert gateway.execute(world.request("acme.echo")).body == b"hello"


def inside(engine, name, code):
    engine.run("exec", name, "/opt/runnerwsgi/bin/python", "-c", code)


@contextlib.contextmanager
def other_program(port):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"hi")

        def do_POST(self):
            # It reads, as it must before it answers on a connection that is kept.
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    with in_thread(server):
        yield
