"""Measures a warm call of a runner elsewhere; started by ./benchmarks/remote.

Three ways to the same guest, an echo, take turns in one process: in process, through a runner
process beside us, and through the container, where a Docker Engine answers. Beside them: the
bare round trip over the same connection, and what one would write by hand with json and
urllib3. The median of the rounds is printed, with the ratio taken round by round.
"""

import argparse
import base64
import http.client
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

SIZES = {"no body": 0, "10 KB": 10_000, "1 MB": 1_000_000}
ROUNDS = 15
CONTAINER = "runnerwsgi-benchmark"
PORT = 8186


def main():
    parser = argparse.ArgumentParser(prog="./benchmarks/remote", description=__doc__)
    parser.add_argument("--calls", type=int, default=20, help="calls of one way in one round")
    calls = parser.parse_args().calls
    in_environment()
    describe_machine()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder) / "home"
        request = installed(home)
        ways = {"in process": stack.enter_context(in_process(home))}
        ways["runner process"] = stack.enter_context(runner_process(home))
        if container := stack.enter_context(in_container(home)):
            ways["container"] = container
        for name, size in SIZES.items():
            measure(name, ways, request(bytes(size)), calls if size < 100_000 else 3)


def in_environment():
    """Go on in the project's virtual environment, which is made when it is not there."""
    from environment import environment

    python = environment(ROOT / ".venv", "-e", ".[dev]")
    if Path(sys.prefix) != python.parent.parent:
        os.execv(python, [python, *sys.argv])


def describe_machine():
    print(
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, rounds of calls in turn: {ROUNDS}"
    )


def installed(home):
    """The echo guest in *home*'s store; gives what makes a request of a body."""
    import wasmtime
    from support import FILES, pack_files

    from runnerwsgi import ExecuteRequest, Settings
    from runnerwsgi.protocol import Context, HttpRequest, Limits
    from runnerwsgi.stores import open_store
    from runnerwsgi.wit import ECHO

    store = open_store(Settings(home=home))
    component = bytes(wasmtime.wat2wasm(ECHO.read_text("utf-8")))
    bundle = store.add(pack_files(home.parent / "source", {**FILES, "dist/main.wasm": component}))

    def request(body):
        return ExecuteRequest(
            Context("acme", bundle.manifest.name, bundle.content_hash, request_id="benchmark"),
            HttpRequest("POST", "/echo", body=body or None),
            Limits(timeout_ms=30_000),
        )

    return request


@contextmanager
def in_process(home):
    from runnerwsgi import Gateway

    with Gateway.from_env({"RUNNER_BACKEND": "wasm", "RUNNER_HOME": str(home)}) as gateway:
        yield Way(gateway)


@contextmanager
def runner_process(home):
    from servers import runner

    from runnerwsgi import Gateway

    with (
        runner(home, RUNNER_BACKEND="wasm") as server,
        Gateway.from_env(
            {"RUNNER_BACKEND": "docker", "RUNNER_DOCKER_HOST": server.url, "RUNNER_HOME": str(home)}
        ) as gateway,
    ):
        yield Way(gateway, server.url)


@contextmanager
def in_container(home):
    """The way through a container, started as a user starts it; None without an engine."""
    from runnerwsgi_docker import token_file

    from runnerwsgi import Gateway

    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")},
        **{name: value for name, value in os.environ.items() if name.startswith("RUNNER_DOCKER_")},
        "RUNNER_HOME": str(home),
        "RUNNER_BACKEND": "docker",
        "RUNNER_DOCKER_CONTAINER": CONTAINER,
        "RUNNER_DOCKER_HOST": f"http://127.0.0.1:{PORT}",
    }
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        print("The container is left out: no Docker Engine answers.")
        yield None
        return
    command = [Path(sys.prefix) / "bin" / "runnerwsgi", "docker"]
    subprocess.run([*command, "up"], env=env, check=True, stdout=subprocess.DEVNULL)
    try:
        with Gateway.from_env(env) as gateway:
            yield Way(gateway, env["RUNNER_DOCKER_HOST"], token_file(home).read_text().strip())
    finally:
        subprocess.run([*command, "down"], env=env, check=True, stdout=subprocess.DEVNULL)


class Way:
    """A gateway to the guest; where there is an address, the same exchanges without it."""

    def __init__(self, gateway, url=None, token=None):
        self.gateway = gateway
        self.url = url
        self.token = token

    def call(self, request):
        answer = self.gateway.execute(request)
        assert answer.status == 200, answer.error
        assert request.http.body in (None, answer.body)

    def bare(self):
        """A round trip that asks for nothing, over one kept connection."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc)
        connection.connect()

        def trip():
            connection.request("GET", "/health/liveness")
            assert connection.getresponse().read()

        return trip

    def by_hand(self, request):
        """What a handler of a page of code does: no checks, no deadline, no classes of errors."""
        import urllib3

        pool = urllib3.HTTPConnectionPool(*urlsplit(self.url).netloc.split(":"))
        context, sent = request.context, request.http
        headers = {"X-Alga-Tenant": context.tenant_id, "X-Alga-Extension": context.extension_id}
        headers |= {"Content-Type": "application/json"}
        if self.token:
            headers["X-Runner-Service-Token"] = self.token

        def trip():
            call = {
                "context": {
                    "request_id": context.request_id,
                    "tenant_id": context.tenant_id,
                    "extension_id": context.extension_id,
                    "content_hash": context.content_hash,
                },
                "http": {"method": sent.method, "path": sent.path, "headers": {}},
                "limits": {"timeout_ms": 29_000},
            }
            if sent.body:
                call["http"]["body_b64"] = base64.b64encode(sent.body).decode()
            answer = pool.request("POST", "/v1/execute", body=json.dumps(call), headers=headers)
            envelope = json.loads(answer.data)
            assert envelope["status"] == 200, envelope
            assert sent.body in (None, base64.b64decode(envelope["body_b64"]))

        return trip


def measure(name, ways, request, calls):
    print(f"\n{name}")
    turns = {}
    for label, way in ways.items():
        turns[label] = lambda way=way: way.call(request)
        if way.url:
            turns[f"  bare round trip to the {label}"] = way.bare()
            turns[f"  json and urllib3 by hand, {label}"] = way.by_hand(request)
    times = {label: [] for label in turns}
    for turn in turns.values():
        turn()
    for _ in range(ROUNDS):
        for label, turn in turns.items():
            started = time.perf_counter()
            for _ in range(calls):
                turn()
            times[label].append((time.perf_counter() - started) / calls)
    base = times["in process"]
    for label, spent in times.items():
        ratio = statistics.median(a / b for a, b in zip(spent, base, strict=True))
        print(f"  {label:44}{statistics.median(spent) * 1000:9.2f} ms   x {ratio:7.2f}")
    for label in (label for label, way in ways.items() if way.url):
        hand = times[f"  json and urllib3 by hand, {label}"]
        ratio = statistics.median(b / a for a, b in zip(times[label], hand, strict=True))
        print(f"  {label}: {ratio:.2f} times as many calls as by hand")


if __name__ == "__main__":
    main()
