"""Serves an application and the container of its extensions; started by ./scripts/dev-runner."""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from urllib.parse import urlsplit, urlunsplit

import docker_engine
import packages
from demo import GREETING, HOST, free_port, install, is_free, serving
from environment import ROOT, environment, requirements

ENV_FILE = ROOT / ".env"
EXAMPLE = ROOT / ".env.example"
WHEELS = ROOT / ".cache" / "wheels"
CHECKED = "dev-runner-check"
STOP_SECONDS = 60
PULL_SECONDS = 300


def main():
    check = parse().check
    python = environment(
        ROOT / ".venv",
        *("-e", ".[wasm,s3]", *requirements("flask", "componentize-py")),
        covers=("-e", ".[dev]"),
    )
    env = dev_environment(python)
    command = python.parent / "runnerwsgi"
    if check:
        env["RUNNER_DOCKER_CONTAINER"] = CHECKED
        env["RUNNER_DOCKER_HOST"] = f"http://{HOST}:{free_port()}"
    port = served_port(env)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    env |= base_image(python, env)
    # A check leaves nothing behind; what is compiled for daily use is kept.
    with container(command, env, *(["--volume"] if check else [])):
        install(python, env)
        sys.exit(check_both(python, env, port) if check else serve_both(python, env, port))


def parse():
    parser = argparse.ArgumentParser(
        prog="./scripts/dev-runner",
        description="Serves the example application with its extensions in a container. "
        "Settings are in .env, which is made from .env.example.",
    )
    parser.add_argument(
        "--check", action="store_true", help="start both, drive them, say what was seen, stop both"
    )
    return parser.parse_args()


def dev_environment(python):
    """What is in .env, below what the shell has set."""
    if not ENV_FILE.exists():
        shutil.copy(EXAMPLE, ENV_FILE)
        print("Made .env from .env.example.")
    env = {**read_env(ENV_FILE.read_text("utf-8")), **os.environ}
    return env | {
        "PATH": f"{python.parent}{os.pathsep}{env.get('PATH', os.defpath)}",
        # The commands run in different folders.
        "RUNNER_HOME": str(ROOT / env["RUNNER_HOME"]),
    }


def read_env(text):
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}


def base_image(python, env):
    """Where the image that ours is made from cannot be had: one of this machine's own."""
    if env.get("RUNNER_DOCKER_BASE") or not docker_engine.answers(env):
        return {}  # what is wrong with the engine is told by who needs it
    default = "from runnerwsgi_docker import DEFAULT_BASE; print(DEFAULT_BASE)"
    name = subprocess.run([python, "-c", default], check=True, text=True, capture_output=True)
    if has_image(name.stdout.strip(), env):
        return {}
    print(f"{name.stdout.strip()} cannot be had here; a small Debian takes its place.", flush=True)
    if not has_image(docker_engine.BASE, env, pull=False):
        packages.install({"debootstrap": "debootstrap"})
    return docker_engine.base(env)


def has_image(name, env, *, pull=True):
    quiet = {"env": env, "capture_output": True}
    if subprocess.run(["docker", "image", "inspect", name], **quiet).returncode == 0:
        return True
    try:
        pulled = pull and subprocess.run(["docker", "pull", name], **quiet, timeout=PULL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return bool(pulled) and pulled.returncode == 0


def served_port(env):
    """The port in RUNNER_PUBLIC_BASE; another one, there as well, when it is taken."""
    base = urlsplit(env["RUNNER_PUBLIC_BASE"])
    port = base.port or 80
    if is_free(port):
        return port
    free = free_port()
    print(f"Port {port} is taken; using {free}.")
    env["RUNNER_PUBLIC_BASE"] = urlunsplit(base._replace(netloc=f"{base.hostname}:{free}"))
    return free


@contextlib.contextmanager
def container(command, env, *down):
    """The runner in its container, built from this checkout, until the end of the block."""
    # Filled by this machine's pip: an index that can be reached is reached from here.
    base = env.get("RUNNER_DOCKER_BASE", "default").replace("/", "-")
    env.setdefault("RUNNER_DOCKER_WHEELS", str(WHEELS / base))
    try:
        docker(command, env, "up", "--build", "--json", stdout=subprocess.DEVNULL)
        yield
    finally:
        # In a session of its own: a second Ctrl+C must not leave half of it behind.
        ending = [command, "docker", "down", *down]
        subprocess.run(ending, env=env, cwd=ROOT, start_new_session=True)


def docker(command, env, *arguments, **options):
    done = subprocess.run([command, "docker", *arguments], env=env, cwd=ROOT, **options)
    if done.returncode:
        sys.exit("The container could not be started; the lines above say why.")


def serve_both(python, env, port):
    with serving(python, env, port, subprocess.PIPE) as server, logs(python, env):
        print(f"\nThe application is at http://localhost:{port} - Ctrl+C stops both.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            show("application", server.stdout)
    return 0


@contextlib.contextmanager
def logs(python, env):
    command = [python.parent / "runnerwsgi", "docker", "logs", "--follow"]
    follower = subprocess.Popen(
        command,
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    threading.Thread(target=show, args=("runner", follower.stdout), daemon=True).start()
    try:
        yield
    finally:
        follower.send_signal(signal.SIGINT)
        follower.wait(timeout=STOP_SECONDS)


def show(who, lines):
    for line in lines:
        print(f"{who:11} | {line.decode(errors='replace').rstrip()}", flush=True)


def check_both(python, env, port):
    from demo_check import drive

    with (
        open(os.path.join(env["RUNNER_HOME"], "server.log"), "w+") as log,
        serving(python, env, port, log),
    ):
        passed = drive("localhost", port, GREETING, env["RUNNER_BACKEND"])
        if not passed:
            log.seek(0)
            print("What the application said last:", log.read()[-2000:], sep="\n")
            print("And the runner:", flush=True)
            docker(python.parent / "runnerwsgi", env, "logs", "--tail", "40")
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
