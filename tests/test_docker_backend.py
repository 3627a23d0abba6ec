"""The backend `docker`: what is found at the container's address is told apart, and told."""

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from peers import always, each, peer, silence, unused_port
from runnerwsgi_docker import plugin, token_file
from servers import runner, serving
from support import EXTENSION, host_app, make_environ, pack_files, send, write_plugin

from runnerwsgi import (
    ExecuteRequest,
    Gateway,
    Installs,
    Principal,
    RunnerError,
    RunnerMiddleware,
    Settings,
)
from runnerwsgi.bundles import BundleStore
from runnerwsgi.protocol import Context, HttpRequest, Limits

TOKEN = "0123456789abcdef" * 3
NOT_READY = b"HTTP/1.1 503 No\r\nX-Runner: runnerwsgi/9\r\nContent-Length: 0\r\n\r\n"
READY = NOT_READY.replace(b"503 No", b"200 OK")
NGINX = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 7\r\n\r\n<html/>"


def installed(home, *, digests=True):
    """A home in which acme.hello is installed for tenant t1."""
    settings = Settings(home=home)
    settings.make_home()
    bundle = BundleStore.from_url(settings.bundle_store).add(pack_files(home / "source"))
    with closing(Installs.from_settings(settings)) as installs:
        digests = bundle.ui_digests if digests else None
        installs.add("t1", EXTENSION, bundle.content_hash, bundle.manifest, ui_digests=digests)
    return f"/runner/ext-ui/{EXTENSION}/{bundle.content_hash}/"


class Site:
    """An application with the docker backend."""

    def __init__(self, home, address, **env):
        self.env = {
            "RUNNER_HOME": str(home),
            "RUNNER_BACKEND": "docker",
            "RUNNER_DOCKER_HOST": address,
            "RUNNER_TIMEOUT_MS": "1000",
            **env,
        }
        admin = Principal("t1", "u1", roles={"admin"})
        self.app = RunnerMiddleware.from_env(host_app, lambda environ: admin, self.env)

    def call(self, method="POST"):
        path = f"/api/ext/{EXTENSION}/hello"
        return send(self.app, make_environ(method, path, HTTP_SEC_FETCH_SITE="same-origin"))

    def health(self):
        return send(self.app, make_environ("GET", "/runner/healthz"))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.app.close()


@pytest.fixture
def home(tmp_path):
    installed(tmp_path / "home")
    return tmp_path / "home"


# What is at the address: in health, and to the log and the caller when it is called.
@pytest.mark.parametrize(
    ("script", "told", "status", "code"),
    [
        pytest.param(
            each(NOT_READY),
            "the container is starting: `runnerwsgi docker logs`",
            503,
            "backend-starting",
            id="a runner that is not ready",
        ),
        pytest.param(
            lambda talk: None,
            "the container is starting",
            502,
            "backend-unreachable",
            id="an open door and nobody behind it",
        ),
        pytest.param(
            lambda talk: talk.reset(),
            "the container is starting",
            502,
            "backend-unreachable",
            id="a door that slams",
        ),
        pytest.param(
            always(NGINX),
            "answers, but is no runner: another program has the port",
            502,
            "bad-runner-response",
            id="a web server",
        ),
        pytest.param(
            each(b"SSH-2.0-OpenSSH_9.2\r\n"),
            "answers, but is no runner",
            502,
            "bad-runner-response",
            id="SSH",
        ),
        pytest.param(
            silence,
            "does not answer: is the container paused or overloaded?",
            504,
            "deadline-exceeded",
            id="silence",
        ),
    ],
)
def test_who_is_no_runner_yet_is_told_apart(home, script, told, status, code, caplog):
    with peer(script) as server, Site(home, server.url) as site:
        health = site.health()
        started = time.monotonic()
        answer = site.call()
        assert time.monotonic() - started < 5
    assert health.status == 503
    assert told in health.json["checks"]["runner"]
    assert (answer.status, answer.code) == (status, code)
    if code == "backend-unreachable":
        assert told in caplog.text
    assert "127.0.0.1" not in answer.body.decode()
    assert server.url in caplog.text  # whoever reads the log is told where


def test_the_first_call_already_says_that_somebody_else_has_the_port(home, caplog):
    hangs_up = b"HTTP/1.0 404 No\r\nContent-Length: 0\r\n\r\n"
    with peer(each(hangs_up)) as server, Site(home, server.url) as site:
        assert site.call().code == "bad-runner-response"
    assert "answers, but is no runner: another program has the port" in caplog.text


@pytest.mark.parametrize(
    ("address", "told"),
    [
        pytest.param(
            "http://127.0.0.1:{port}",
            "nothing listens at http://127.0.0.1:{port}: start the container with "
            "`runnerwsgi docker up`",
            id="nobody listens",
        ),
        pytest.param(
            "http://no-such-host.invalid:8080",
            "there is no name no-such-host.invalid: is the application in the compose network?",
            id="no such name",
        ),
    ],
)
def test_nobody_there_is_told_apart(home, address, told, caplog):
    port = unused_port()
    with Site(home, address.format(port=port), RUNNER_TIMEOUT_MS="20000") as site:
        answer = site.call()
        assert (answer.status, answer.code) == (502, "backend-unreachable")
        assert told.format(port=port) in caplog.text
        end = time.monotonic() + 20
        while told.format(port=port) not in str(site.health().json["checks"]):
            assert time.monotonic() < end, site.health().json
            time.sleep(0.1)


def test_a_runner_with_another_token_is_misconfigured_and_says_so(home, tmp_path, caplog):
    with runner(tmp_path / "runner", RUNNER_SERVICE_TOKEN=TOKEN) as started:
        with Site(home, started.url, RUNNER_SERVICE_TOKEN=TOKEN[::-1]) as site:
            health = site.health()
            answer = site.call()
        assert health.status == 503
        assert "misconfigured: the runner at" in health.json["checks"]["runner"]
        assert (answer.status, answer.code) == (502, "bad-runner-response")
        assert "another token" in caplog.text
        assert TOKEN not in caplog.text + health.body.decode()
        assert TOKEN[::-1] not in caplog.text + health.body.decode()


def test_a_runner_of_ours_says_what_it_is(home, tmp_path):
    with (
        runner(tmp_path / "runner", RUNNER_IMAGE="runnerwsgi:9", RUNNER_REVISION="abc") as started,
        Site(home, started.url) as site,
    ):
        health = site.health()
    (about,) = health.json["plugins"].values()
    assert (health.status, health.json["status"]) == (200, "ok")
    assert (about["address"], about["state"], about["image"], about["revision"]) == (
        started.url,
        "ok",
        "runnerwsgi:9",
        "abc",
    )
    assert about["uptime_s"] >= 0
    assert about["version"]


def test_the_token_that_docker_up_keeps_is_used_unless_one_is_named(tmp_path):
    token_file(tmp_path).parent.mkdir(parents=True)
    token_file(tmp_path).write_text(TOKEN)
    healthz = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'
    with peer(always(healthz)) as server:
        base = {"RUNNER_HOME": str(tmp_path), "RUNNER_DOCKER_HOST": server.url}
        for env in (base, base | {"RUNNER_SERVICE_TOKEN": TOKEN[::-1]}):
            with closing(Gateway(plugin(env), names=["docker"])) as gateway:
                assert gateway.health().status == "ok"
    sent = [TOKEN.encode() in one for one in server.requests]
    assert sent == [True, False]
    assert TOKEN[::-1].encode() in server.requests[1]


# It notes what it executes, in a file that outlives it.
TALLY = """
import os
import time
from runnerwsgi import ExecuteResponse, Health, hookimpl


class Tally:
    def __init__(self, file):
        self.file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @hookimpl
    def runner_execute(self, request):
        os.write(self.file, request.http.path.encode() + b" ")
        time.sleep(0.02)
        return ExecuteResponse(200, (), request.http.body)

    @hookimpl
    def runner_resolve_ui_url(self, asset):
        return "file:///none"

    @hookimpl
    def runner_health(self):
        return Health("ok")


def plugin(env):
    return Tally(env["RUNNER_TALLY_FILE"])
"""
CALLERS = 8


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL], ids=["told to end", "killed"])
def test_a_restart_under_load_costs_only_the_calls_that_were_in_it(tmp_path, monkeypatch, sign):
    write_plugin(tmp_path, "tally", TALLY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    port, stop = unused_port(), threading.Event()
    env = {"RUNNER_BACKEND": "tally", "RUNNER_TALLY_FILE": str(tmp_path / "tally")}
    address = {"RUNNER_HOME": str(tmp_path), "RUNNER_DOCKER_HOST": f"http://127.0.0.1:{port}"}

    def call(gateway, caller):
        answers, number = {}, 0
        while not stop.is_set():
            path, number = f"/{caller}-{number}", number + 1
            request = ExecuteRequest(
                Context("t1", EXTENSION, "sha256:" + "0" * 64),
                HttpRequest("POST", path),
                Limits(timeout_ms=5000),
                idempotency_key=path,
            )
            try:
                answers[path] = gateway.execute(request).status
            except RunnerError as error:
                answers[path] = error.code
                time.sleep(0.01)
        return answers

    with (
        closing(Gateway(plugin(address), names=["docker"])) as gateway,
        runner(tmp_path, "--port", str(port), **env) as first,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        callers = [pool.submit(call, gateway, number) for number in range(CALLERS)]
        try:
            time.sleep(0.5)
            first.process.send_signal(sign)
            first.process.wait(15)
            with runner(tmp_path, "--port", str(port), **env):
                time.sleep(0.5)
                stop.set()
                answers = {k: v for caller in callers for k, v in caller.result().items()}
                last = [caller.result().popitem()[1] for caller in callers]
        finally:
            stop.set()

    executed = Counter((tmp_path / "tally").read_text().split())
    del executed["/"]  # the runner's look at itself
    by_answer = Counter(answers.values())
    assert max(executed.values()) == 1
    assert by_answer[200] > CALLERS
    assert last == [200] * CALLERS  # and nobody had to be started again
    assert set(by_answer) <= {200, "backend-unreachable", "backend-starting", "outcome-unknown"}
    # Only what was in it when it was killed has an unknown fate; all the rest is certain.
    assert by_answer["outcome-unknown"] <= (CALLERS if sign == signal.SIGKILL else 0)
    for path, answer in answers.items():
        assert answer == "outcome-unknown" or executed[path] == (answer == 200), (path, answer)


APP = """
from runnerwsgi import Principal, RunnerMiddleware

def pages(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"host"]

def identify(environ):
    return Principal("t1", "u1")

application = RunnerMiddleware.from_env(pages, identify=identify)
"""


def test_a_runner_that_hangs_leaves_the_application_its_pages(tmp_path):
    """Four threads, as waitress has: calls and files of a paused container never take them all."""
    home = tmp_path / "home"
    files = installed(home)
    (home / "served.py").write_text(APP)
    stop = threading.Event()

    def paused(talk):
        while request := talk.request():
            if b"/health" in request.partition(b"\r\n")[0]:
                talk.send(READY)
            else:
                stop.wait(15)
                return

    with peer(paused) as container:
        env = {name: text for name, text in os.environ.items() if not name.startswith("RUNNER_")}
        env |= {
            "RUNNER_HOME": str(home),
            "RUNNER_BACKEND": "docker",
            "RUNNER_DOCKER_HOST": container.url,
            "RUNNER_TIMEOUT_MS": "6000",
        }
        command = ("waitress-serve", "--listen=127.0.0.1:0", "served:application")
        with serving(*command, cwd=home, env=env) as server, ThreadPoolExecutor(10) as pool:
            own = {"Sec_Fetch_Site": "same-origin"}
            call = (("POST", f"/api/ext/{EXTENSION}/hello"), own)
            asked = [call] * 3 + [(("GET", f"{files}index.html"), {})] * 7
            loads = [pool.submit(server.send, *args, **more) for args, more in asked]
            time.sleep(1.5)  # who waited for another's file has given up
            waits = []
            for _ in range(20):
                before = time.monotonic()
                assert server.send()[2] == b"host"
                waits.append(time.monotonic() - before)
            stop.set()
            statuses = sorted(load.result()[0] for load in loads)
    assert max(waits) < 3
    assert statuses.count(503) >= 6
    assert set(statuses) <= {502, 503, 504}
