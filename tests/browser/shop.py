"""The Flask example with the demo's extension, installed and served as a user does it."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from wasm import toolchains
from wheels import ROOT


@contextmanager
def serving(home, port=0, **env):
    """The address of a shop that keeps everything under *home*; *env* are further variables."""
    own = {"RUNNER_BACKEND": "wasm", "RUNNER_HOME": str(home)}
    own["RUNNER_WASM_CACHE_DIR"] = str(toolchains.BUILT / "code")
    env = os.environ | own | env
    notes = toolchains.notes(home / "notes-panel")
    install = [Path(sys.executable).with_name("runnerwsgi"), "install", notes, "--yes"]
    subprocess.run([*install, "--config", "greeting=Welcome back"], env=env, check=True)
    serve = [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", "app:application"]
    log = home / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(serve, env=env, cwd=ROOT / "examples/flask_app", stderr=out)
    try:
        yield address(server, log)
    finally:
        server.terminate()
        server.wait(timeout=10)


def address(server, log):
    """Where the server says that it serves."""
    while server.poll() is None:
        if found := re.search(r"Serving on (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"The server did not start:\n{log.read_text()}")
