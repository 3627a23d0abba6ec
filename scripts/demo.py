"""Serves the demo, or checks it over HTTP; started by ./scripts/demo, which says how."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from environment import ROOT, environment, requirements

HOST = "127.0.0.1"
PORT = 3000
THREADS = 8
HOME = ROOT / ".demo"
EXTENSION = "examples/extensions/notes-panel"
GREETING = "Welcome back"
START_SECONDS = 30


def main():
    parser = argparse.ArgumentParser(
        prog="./scripts/demo", description="Serves a Flask application with an extension inside."
    )
    parser.add_argument(
        "--check", action="store_true", help="start it on a free port, drive it, say what was seen"
    )
    check = parser.parse_args().check
    python = environment(
        ROOT / ".venv",
        *("-e", ".[wasm]", *requirements("flask", "componentize-py")),
        covers=("-e", ".[dev]"),
    )
    env = demo_environment(python)
    install(python, env)
    sys.exit(check_demo(python, env) if check else serve_demo(python, env))


def demo_environment(python):
    """The environment without the RUNNER_* variables of whoever starts the demo."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    return env | {
        "PATH": f"{python.parent}{os.pathsep}{env.get('PATH', os.defpath)}",
        "RUNNER_BACKEND": "wasm",
        "RUNNER_HOME": str(HOME),
        "RUNNER_THREADS": str(THREADS),
    }


def install(python, env):
    command = [python.parent / "runnerwsgi", "install", EXTENSION, "--yes"]
    command += ["--config", f"greeting={GREETING}"]
    if subprocess.run(command, cwd=ROOT, env=env).returncode:
        sys.exit("The demo's extension could not be installed; the lines above say why.")


def serve_demo(python, env):
    port = PORT if is_free(PORT) else free_port()
    if port != PORT:
        print(f"Port {PORT} is taken; using {port}.")
    with serving(python, env, port) as server:
        print(f"\nThe demo is at http://{HOST}:{port} - Ctrl+C stops it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            return server.wait()
    return 0


def check_demo(python, env):
    from demo_check import drive

    port = free_port()
    log = HOME / "server.log"
    with log.open("w") as out, serving(python, env, port, out):
        passed = drive(HOST, port, GREETING)
    if not passed:
        print(f"What the server said last ({log}):", log.read_text()[-2000:], sep="\n")
    return 0 if passed else 1


@contextlib.contextmanager
def serving(python, env, port, out=None):
    """The demo under waitress in a process of its own, until the end of the block."""
    command = [python, "-m", "waitress", f"--listen={HOST}:{port}", f"--threads={THREADS}"]
    command.append("app:application")
    # In a session of its own: Ctrl+C is for us, and we end the server in order.
    server = subprocess.Popen(
        command,
        cwd=ROOT / "examples/flask_app",
        env=env,
        stdout=out,
        stderr=subprocess.STDOUT if out else None,
        start_new_session=True,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        wait_until_open(server, port)
        yield server
    finally:
        server.terminate()
        server.wait(timeout=10)


def wait_until_open(server, port):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            sys.exit(f"The server ended at once with status {server.returncode}.")
        if not is_free(port):
            return
        time.sleep(0.05)
    sys.exit(f"The server did not answer on port {port} within {START_SECONDS} s.")


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
