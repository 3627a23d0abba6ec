"""A process that forks in the middle of things: its child waits for nothing that only it does."""

import subprocess
import sys
import textwrap
import threading

from peers import peer

SCRIPT = textwrap.dedent(
    """
    import os, sys, threading, time
    from runnerwsgi.assets import Assets
    from runnerwsgi.client import RunnerClient
    from runnerwsgi.service_token import ServiceToken

    url = sys.argv[1]
    assets, client = Assets(None, 1000), RunnerClient(url, ServiceToken())

    def fetch(name):
        return assets.load(f"{url}/{name}", "a.html", None, 20).data

    for act in (lambda: fetch("slow"), lambda: client.state(20)):
        threading.Thread(target=act, daemon=True).start()
    sys.stdin.readline()  # both are under way
    pid = os.fork()
    if not pid:
        status = 1
        try:
            started = time.monotonic()
            assert fetch("fast") == b"{}"
            assert client.state(5).kind == "no-runner"
            assert time.monotonic() - started < 5
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
)


def test_a_fetch_and_a_look_of_the_parent_hold_up_no_child():
    under_way, release = threading.Semaphore(0), threading.Event()
    seen = []

    def script(talk):
        while request := talk.request():
            path = request.split(b" ")[1]
            seen.append(path)
            if path == b"/slow" or (path, seen.count(path)) == (b"/healthz", 1):
                under_way.release()
                release.wait(20)
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with peer(script) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, server.url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert under_way.acquire(timeout=20)
            assert under_way.acquire(timeout=20)
            _, said = process.communicate("go\n", timeout=30)
        finally:
            release.set()
            process.kill()
            process.wait()
    assert process.returncode == 0, said
    assert sorted(seen) == [b"/fast", b"/healthz", b"/healthz", b"/slow"]
