"""`runner`, as an orchestrator starts it: in a process of its own."""

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from urllib.parse import urlsplit

import pytest
from peers import unused_port
from servers import BIN, runner
from support import write_plugin

from runnerwsgi import __version__
from runnerwsgi.origins import parse_http_url
from runnerwsgi.upstream import Upstream

TOKEN = "a-token-of-more-than-32-characters-for-tests"
HASH = "sha256:" + "0" * 64
# Answers after as many milliseconds as its body says, or when it may go; counts what it executed.
SLOW = """
import os
import time
from runnerwsgi import ExecuteResponse, Health, hookimpl

class Slow:
    name = "slow"

    @hookimpl
    def runner_execute(self, request):
        body = request.http.body
        if body.isdigit() and len(body) < 6:
            time.sleep(int(body) / 1000)
            with open("executed", "a") as counter:
                counter.write(f"{request.context.request_id}\\n")
        while body == b"held" and not os.path.exists("go"):
            time.sleep(0.01)
        return ExecuteResponse(200, (), body)

    @hookimpl
    def runner_resolve_ui_url(self, asset):
        return "file:///nowhere"

    @hookimpl
    def runner_health(self):
        return Health("ok")

def plugin(env):
    return Slow()
"""


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """Variables under which a runner has the slow backend; the current folder has its count."""
    (tmp_path / "plugins").mkdir()
    write_plugin(tmp_path / "plugins", "runnerwsgi_slow", SLOW, plugin="slow")
    monkeypatch.chdir(tmp_path)
    return {"RUNNER_BACKEND": "slow", "PYTHONPATH": str(tmp_path / "plugins")}


def call(body=b"10", request_id="r-1"):
    """The JSON of a call."""
    import base64

    return json.dumps(
        {
            "context": {
                "request_id": request_id,
                "tenant_id": "t",
                "extension_id": "demo.slow",
                "content_hash": HASH,
            },
            "http": {"method": "POST", "path": "/", "body_b64": base64.b64encode(body).decode()},
            "limits": {"timeout_ms": 20_000},
        }
    ).encode()


JSON = {"Content_Type": "application/json"}


def execute(server, body=b"10", **more):
    status, _, answer = server.send("POST", "/v1/execute", call(body), **JSON, **more)
    assert status == 200, answer
    return json.loads(answer)


def test_a_bundle_is_executed_and_its_page_served(tmp_path, run, hello):
    with runner(tmp_path / "home", RUNNER_SERVICE_TOKEN=TOKEN) as server:
        assert run("install", str(hello)).exit_code == 0
        (install,) = json.loads(run("installs", "--json").stdout)["installs"]
        found = json.loads(call()) | {"http": {"method": "GET", "path": "/hello"}}
        found["context"] |= {
            "extension_id": "demo.hello",
            "content_hash": install["content_hash"],
        }
        body = json.dumps(found).encode()
        token = {"X_Runner_Service_Token": TOKEN}
        status, _, answer = server.send("POST", "/v1/execute", body, **JSON, **token)
        assert (status, json.loads(answer)["outcome"]) == (200, "ok"), answer
        page = f"/ext-ui/demo.hello/{install['content_hash']}/index.html"
        status, headers, answer = server.send("GET", page)
        assert (status, b"<h1>Hello</h1>" in answer) == (200, True)
        assert headers["cache-control"].endswith("immutable")
        status, _, health = server.send("GET", "/healthz", **token)
        health = json.loads(health)
        assert health["runner"]["backend"] == "wasm"
        assert health["checks"]["canary"].startswith("executed in")
        assert {"engine", "store", "cache"} <= set(health["checks"])
        assert server.send("POST", "/v1/execute", body, **JSON)[0] == 401
    assert server.process.returncode == 0
    (done,) = [entry for entry in server.logged if entry["event"] == "execute"]
    assert {"time", "level", "event", "duration_ms"} <= set(done)
    assert (done["backend"], done["tenant_id"], done["extension_id"]) == ("wasm", "t", "demo.hello")
    assert (done["request_id"], done["status"], done["outcome"]) == ("r-1", 200, "ok")
    assert TOKEN not in "".join(server.said)


def test_every_line_it_says_is_json(tmp_path, slow):
    with runner(tmp_path / "home", **slow) as server:
        execute(server)
        with socket.create_connection(address(server)) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            assert b" 400 " in raw.recv(1000)
    assert len(server.logged) == len(server.said)
    assert [entry["event"] for entry in server.logged][-1] == "stopped"


def until(fact):
    """Give it time to become so."""
    end = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.01)


def running(server):
    """How many calls run."""
    return json.loads(server.send("GET", "/healthz")[2])["runner"]["running"]


def wait_until_running(server, calls=1):
    """Give calls time to arrive."""
    until(lambda: running(server) >= calls)


def is_refused(address):
    """Whether nobody listens there."""
    try:
        socket.create_connection(address, timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


def wait_until_ending(server):
    """Give its signal time to arrive."""
    until(lambda: any(entry["event"] == "ending" for entry in server.logged))


def address(server):
    parts = urlsplit(server.url)
    return parts.hostname, parts.port


# What no application ever sees


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A runner for what leaves nothing behind."""
    with runner(tmp_path_factory.mktemp("plain"), wait=False) as server:
        yield server


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 65_508, b"431"),
        (b"POST /v1/execute HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"POST /v1/execute HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"POST /v1/execute HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n", b"501"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n0\r\n\r\nGET /health/liveness HTTP/1.1\r\nHost: a\r\n\r\n",
            b"400",
        ),
        (b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
    ],
    ids=[
        "no HTTP",
        "huge headers",
        "a length that is none",
        "a huge body",
        "an odd encoding",
        "two lengths, and a request behind the shorter",
        "an odd target",
    ],
)
def test_what_cannot_be_read_is_answered_by_a_runner_too(plain, sent, status):
    with socket.create_connection(address(plain), timeout=10) as raw:
        raw.sendall(sent)
        head = raw.makefile("rb").read(2000)
    assert head.split()[1] == status
    assert f"X-Runner: runnerwsgi/{__version__}\r\n".encode() in head
    assert head.count(b"HTTP/1.") == 1


LONG = b"a" * 500_000
ANNOUNCED = b"Content-Length: 1000000\r\n\r\n" + LONG
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n7a120\r\n" + LONG


@pytest.mark.parametrize("sent", [ANNOUNCED, IN_CHUNKS], ids=["announced", "in chunks"])
def test_of_a_stranger_no_long_body_is_read(tmp_path, slow, sent):
    def begun(server, token):
        with socket.create_connection(address(server), timeout=10) as raw:
            raw.sendall(b"POST /v1/execute HTTP/1.1\r\nHost: a\r\n" + token + sent[:100_000])
            raw.settimeout(0.5)
            try:
                return raw.makefile("rb").readline()
            except TimeoutError:
                return b"waits for the rest"

    with runner(tmp_path / "home", RUNNER_SERVICE_TOKEN=TOKEN, **slow) as server:
        assert b" 401 " in begun(server, b"")
        assert b" 401 " in begun(server, b"X-Runner-Service-Token: another\r\n")
        known = f"X-Runner-Service-Token: {TOKEN}\r\n".encode()
        assert begun(server, known) == b"waits for the rest"


def test_a_gateway_with_another_token_is_told_so_whatever_it_sends(tmp_path, slow):
    with runner(tmp_path / "home", RUNNER_SERVICE_TOKEN=TOKEN, **slow) as server:
        for size in (10, 1_000_000):
            sent = {"X-Runner-Service-Token": "another", "Content-Type": "application/json"}
            answer = Upstream(parse_http_url(server.url).origin).exchange(
                "POST",
                "/v1/execute",
                headers=sent.items(),
                body=b" " * size,
                timeout=5,
                max_bytes=10_000,
            )
            assert (answer.status, answer.headers["x-runner"]) == (401, f"runnerwsgi/{__version__}")


def test_health_is_answered_at_once_however_many_calls_there_are(tmp_path, slow):
    with runner(tmp_path / "home", RUNNER_MAX_PER_EXTENSION="10", **slow) as server:
        statuses = []

        def busy():
            statuses.append(server.send("POST", "/v1/execute", call(b"held"), **JSON)[0])

        callers = [threading.Thread(target=busy) for _ in range(24)]
        for caller in callers:
            caller.start()
        until(lambda: len(statuses) == 14)
        assert running(server) == 10  # each answered within what a request has
        assert server.send("GET", "/health/readiness")[0] == 200
        (tmp_path / "go").touch()
        for caller in callers:
            caller.join()
    assert sorted(statuses) == [200] * 10 + [503] * 14


# Its end


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_call_that_runs_is_finished(tmp_path, slow, stop):
    with runner(tmp_path / "home", **slow) as server:
        answers = []
        caller = threading.Thread(target=lambda: answers.append(execute(server, b"held")))
        caller.start()
        wait_until_running(server)
        server.process.send_signal(stop)
        wait_until_ending(server)
        (tmp_path / "go").touch()
        caller.join()
        assert server.process.wait(10) == 0
    assert answers[0]["outcome"] == "ok"


def test_readiness_ends_while_calls_still_run(tmp_path, slow):
    with runner(tmp_path / "home", **slow) as server:
        kept = http.client.HTTPConnection(*address(server), timeout=10)
        kept.connect()
        caller = threading.Thread(target=execute, args=(server, b"held"))
        caller.start()
        wait_until_running(server)
        server.process.terminate()
        status = None
        while status != 503:  # the signal may still be on its way
            kept.request("GET", "/health/readiness")
            answer = kept.getresponse()
            status, connection = answer.status, answer.getheader("connection")
            answer.read()
        assert connection == "close"
        kept.close()
        until(lambda: is_refused(address(server)))  # the door is shut a moment later
        (tmp_path / "go").touch()
        caller.join()


def test_a_call_that_is_half_sent_is_still_taken(tmp_path, slow):
    body = call(b"10")
    head = f"POST /v1/execute HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    with (
        runner(tmp_path / "home", **slow) as server,
        socket.create_connection(address(server), timeout=10) as raw,
    ):
        raw.sendall(head.encode() + body[:20])
        time.sleep(0.2)
        server.process.terminate()
        time.sleep(0.8)
        raw.sendall(body[20:])
        answer = raw.makefile("rb").read()
        assert server.process.wait(10) == 0
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in answer
    assert b'"outcome":"ok"' in answer


def test_idle_connections_do_not_keep_it(tmp_path, slow):
    with runner(tmp_path / "home", **slow) as server:
        idle = [socket.create_connection(address(server), timeout=10) for _ in range(3)]
        time.sleep(0.2)
        started = time.monotonic()
        server.process.terminate()
        assert [one.recv(1) for one in idle] == [b""] * 3
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 3
        for one in idle:
            one.close()


@pytest.mark.parametrize("again", [False, True], ids=["the grace is over", "a second signal"])
def test_a_call_that_takes_too_long_is_cut_off(tmp_path, slow, again):
    grace = "30" if again else "1"
    with runner(tmp_path / "home", "--grace", grace, **slow) as server:
        failed = []

        def cut_off():
            try:
                execute(server, b"20000")
            except (OSError, http.client.HTTPException) as exc:
                failed.append(exc)

        caller = threading.Thread(target=cut_off)
        caller.start()
        wait_until_running(server)
        started = time.monotonic()
        server.process.terminate()
        if again:
            wait_until_ending(server)
            server.process.terminate()
        caller.join()
        assert server.process.wait(10) == 1
        assert time.monotonic() - started < 5
    assert failed
    assert server.logged[-1]["unfinished"] == 1


class Caller(threading.Thread):
    """Calls over and over, on kept connections; knows what became of each call."""

    def __init__(self, server, name):
        super().__init__(name=name)
        self.where = address(server)
        self.answered, self.lost, self.refused = [], [], False

    def run(self):
        connection, number = None, 0
        while not self.refused:
            number += 1
            request_id = f"{self.name}-{number}"
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(*self.where, timeout=20)
                    connection.connect()
            except ConnectionRefusedError:
                self.refused = True
                return
            try:
                connection.request(
                    "POST",
                    "/v1/execute",
                    call(b"20", request_id),
                    {"Content-Type": "application/json"},
                )
                answer = connection.getresponse()
                body = json.loads(answer.read())
            except (OSError, http.client.HTTPException) as exc:
                self.lost.append((request_id, repr(exc)))
                connection = None
                continue
            if answer.status == 200:
                assert body["outcome"] == "ok"
                self.answered.append(request_id)
            if answer.will_close:
                connection.close()
                connection = None


@pytest.mark.parametrize("round", range(2))
def test_nothing_that_was_accepted_is_lost_under_load(tmp_path, slow, round):
    with runner(tmp_path / "home", **slow) as server:
        callers = [Caller(server, f"c{number}") for number in range(8)]
        for caller in callers:
            caller.start()
        until(lambda: sum(len(caller.answered) for caller in callers) > 50)
        server.process.terminate()
        for caller in callers:
            caller.join()
        assert server.process.wait(15) == 0
    executed = (tmp_path / "executed").read_text().split()
    answered = [one for caller in callers for one in caller.answered]
    assert [one for caller in callers for one in caller.lost] == []
    assert sorted(executed) == sorted(answered)


# How it is started


def test_it_listens_where_the_platform_says(tmp_path, slow):
    port = unused_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    env |= slow | {"PORT": str(port), "RUNNER_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(
        [BIN / "runnerwsgi", "runner"], env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        warning, line = (json.loads(process.stderr.readline()) for _ in range(2))
        assert "no RUNNER_SERVICE_TOKEN" in warning["event"]
        assert (line["event"], line["url"]) == ("serving", f"http://127.0.0.1:{port}")
        listening = subprocess.run(["ss", "-ltn"], capture_output=True, text=True).stdout
        assert f"0.0.0.0:{port}" in listening
    finally:
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


def failing(tmp_path, *options, **env):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    done = subprocess.run(
        [BIN / "runnerwsgi", "runner", *options],
        env=clean | {"RUNNER_HOME": str(tmp_path / "home")} | env,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "Traceback" not in done.stderr
    return done


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = failing(tmp_path, "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: Port {port} on 127.0.0.1 is taken")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        ({"RUNNER_SERVICE_TOKEN": "short"}, "RUNNER_SERVICE_TOKEN: use at least 32"),
        ({"RUNNER_SERVICE_TOKEN_FILE": "/nowhere"}, "/nowhere: No such file"),
        ({"RUNNER_BACKEND": "nosuch"}, "nosuch"),
        ({"RUNNER_BUNDLE_STORE": "ftp://x"}, "RUNNER_BUNDLE_STORE"),
        ({"PORT": "x"}, "'x' is not a valid integer"),
    ],
    ids=["a short token", "no token file", "an unknown backend", "an odd store", "an odd port"],
)
def test_settings_that_cannot_be(tmp_path, env, complaint):
    done = failing(tmp_path, **env)
    assert done.returncode in (1, 2)
    assert complaint in done.stderr


def test_no_database_library_delays_its_start(tmp_path):
    with runner(tmp_path, PYTHONPROFILEIMPORTTIME="1") as server:
        server.stop()
        loaded = {line.split("|")[-1].strip() for line in server.said}
    assert "runnerwsgi_wasm.engine" in loaded
    assert not {"sqlalchemy", "psycopg", "redis"} & loaded
