"""Checks everything a change must pass; started by ./scripts/test, which says how."""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time

from docker_engine import engine
from environment import ROOT, environment
from packages import install

# What a mark's tests need that pip does not bring: the command, and the Debian package of it.
NEEDS = {
    "browser": ("chromium", "chromium"),
    "toolchain": ("npm", "npm"),
    "docker": ("docker", "docker.io"),
    "compose": ("docker-compose", "docker-compose"),
    "redis": ("redis-server", "redis-server"),
    "postgres": ("pg_ctlcluster", "postgresql"),
}
SLOW_MARKS = ("browser", "toolchain", "docker", "compose", "slow")
CODE = ("runnerwsgi", "plugins", "tests", "scripts", "benchmarks", "examples")
DEV = ("-e", ".[dev]")


def main():
    options, pytest_args = parse()
    if options.install or options.prepare:
        install(dict(NEEDS.values()))
    if options.prepare:
        return
    folder = ROOT / ".venv"
    if options.python:
        folder = ROOT / f".venv-{version_of(options.python)}"
    python = environment(folder, *DEV, base=options.python)
    steps = [] if options.python or pytest_args else checks(python)
    steps.append(("tests", tests(python, options, pytest_args)))
    strict = {"RUNNER_TEST_STRICT": "1"} if options.install else {}
    with engine(may_install=True) if options.install else contextlib.nullcontext({}) as docker:
        env = os.environ | docker | strict | {"NO_MKDOCS_2_WARNING": "1"}
        sys.exit(run(steps, env, folder))


def parse():
    parser = argparse.ArgumentParser(
        prog="./scripts/test",
        description="Checks style, types, documentation and tests. Other arguments go to pytest, "
        "which then runs alone: ./scripts/test tests/test_paths.py -k dots",
    )
    parser.add_argument("--fast", action="store_true", help="leave out what takes seconds a test")
    parser.add_argument(
        "--install",
        action="store_true",
        help="install missing Debian packages, start a Docker Engine; allow no skip",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="install missing Debian packages, and end"
    )
    parser.add_argument(
        "--python", metavar="PATH", help="run the tests alone, on this Python, in a .venv-X.Y"
    )
    return parser.parse_known_args()


def checks(python):
    tool = python.parent
    paths = [name for name in CODE if (ROOT / name).is_dir()]
    steps = [
        ("ruff check", [tool / "ruff", "check", "--quiet", *paths]),
        ("ruff format", [tool / "ruff", "format", "--check", "--quiet", *paths]),
        ("mypy", [tool / "mypy"]),
    ]
    if (ROOT / "mkdocs.yml").exists():
        # Not --quiet: that would silence the warnings which --strict counts.
        steps.append(("documentation", [python, "-m", "mkdocs", "build", "--strict"]))
    return steps


def tests(python, options, pytest_args):
    left_out = [*absent(), *(SLOW_MARKS if options.fast else ())]
    command = [python, "-m", "pytest", "-q", "--durations=10", "--durations-min=0.05"]
    if left_out:
        command += ["-m", " and ".join(f"not {mark}" for mark in dict.fromkeys(left_out))]
    if not (pytest_args or options.fast or options.python):
        command += ["--cov", "--cov-report=term:skip-covered"]
    return command + pytest_args


def absent():
    """The marks whose tests cannot run here; says so in one line."""
    marks = [mark for mark, (command, _) in NEEDS.items() if not shutil.which(command)]
    if marks:
        told = ", ".join(f"{mark} (Debian package {NEEDS[mark][1]})" for mark in marks)
        print(f"Left out: tests marked {told}. ./scripts/test --install brings what they need.")
    return marks


def version_of(python):
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run(
        [python, "-c", code], check=True, text=True, capture_output=True
    ).stdout.strip()


def run(steps, env, folder):
    """Run every step, whatever the ones before it say; answer 0 when all passed."""
    env["PATH"] = f"{folder / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    results = []
    for name, command in steps:
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        status = subprocess.run(command, cwd=ROOT, env=env).returncode
        results.append((name, status, time.monotonic() - started))
    print()
    for name, status, seconds in results:
        print(f"{'FAILED' if status else 'ok':7}{name:15}{seconds:6.1f} s")
    return int(any(status for _, status, _ in results))


if __name__ == "__main__":
    main()
