"""Real WSGI servers in processes of their own, started as users start them."""

import atexit
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

BIN = Path(sys.executable).parent
_URL = re.compile(r"(?:Serving on|Listening at:) (http://\S+)")


class Server:
    """A started server: its URL, and what it has said so far."""

    def __init__(self, process):
        self.process = process
        self.said = []
        self.url = next(filter(None, map(self._heard, process.stderr)), None)
        if self.url is None:
            raise AssertionError("the server did not start:\n" + "".join(self.said))
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _heard(self, line):
        self.said.append(line)
        found = _URL.search(line)
        return found and found[1]

    def _listen(self):
        self.said.extend(self.process.stderr)

    def stop(self):
        """Ask it to end, as a service manager does; give back its exit status."""
        self.process.terminate()
        status = self.process.wait(timeout=15)
        self._listener.join()
        self.process.stderr.close()
        return status

    def send(self, method="GET", path="/", body=None, timeout=20, **headers):
        """One request on a connection of its own: status, headers by lower-case name, body."""
        return send(self.url, method, path, body, timeout, **headers)


def send(url, method="GET", path="/", body=None, timeout=20, **headers):
    """One request to the server at *url*: status, headers by lower-case name, body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, found, response.read()
    finally:
        connection.close()


@contextmanager
def serving(*command, cwd, env):
    """Run a server's own command until the block ends."""
    with _started(Server, command, cwd=cwd, env=env) as server:
        yield server


class Runner(Server):
    """A started runner; `said` are the lines of its log, `logged` the same as objects."""

    def _heard(self, line):
        self.said.append(line)
        found = json.loads(line) if line.startswith("{") else {}
        return found.get("url") if found.get("event") == "serving" else None

    def wait_until_ready(self, seconds=30):
        """Give it time to execute something for the first time."""
        end = time.monotonic() + seconds
        while (status := self.send(path="/health/readiness")[0]) != 200:
            if time.monotonic() > end:
                raise AssertionError(f"not ready, {status}:\n" + "".join(self.said))
            time.sleep(0.01)

    @property
    def logged(self):
        return [json.loads(line) for line in self.said if line.startswith("{")]


@contextmanager
def runner(home, *options, wait=True, **env):
    """Run `runnerwsgi runner` on a free port until the block ends.

    *home* is its RUNNER_HOME; *env* are further variables, and nothing else of ours is set but
    where compiled code lies: what one runner of a run has compiled, no other one has to.
    Unless told otherwise it is waited for until it is ready.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    own = {"RUNNER_HOME": str(home), "RUNNER_WASM_CACHE_DIR": compiled()}
    command = ("runnerwsgi", "runner", "--port", "0", *options)
    with _started(Runner, command, env=clean | own | env) as server:
        if wait:
            server.wait_until_ready()
        yield server


@cache
def compiled():
    """The folder of compiled code that the runners of this run share."""
    folder = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def _started(kind, command, **options):
    process = subprocess.Popen(
        [BIN / command[0], *command[1:]], stderr=subprocess.PIPE, text=True, **options
    )
    try:
        server = kind(process)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    try:
        yield server
    finally:
        server.stop()
