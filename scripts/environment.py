"""The virtual environments of the scripts: made once, made again when pyproject.toml changes."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"


def environment(folder, *wanted, covers=(), base=None):
    """A virtual environment's python, with what pip was asked for.

    Nothing is done while pyproject.toml and *wanted* are what they were. A folder that already
    has *covers*, which includes *wanted*, is left as it is. *base* is the Python to make the
    environment from, by default the one that runs this.
    """
    python = folder / "bin" / "python"
    if any(_is_current(folder, kind) for kind in (wanted, covers) if kind):
        return python
    started = time.monotonic()
    print(f"Setting up {folder.name}: pip install {' '.join(wanted)} …", flush=True)
    if not _is_alive(python):
        shutil.rmtree(folder, ignore_errors=True)
        _run([base or sys.executable, "-m", "venv", folder])
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
    _run([*pip, *wanted])
    _stamp(folder, wanted).write_text(_digest())
    print(f"… done in {time.monotonic() - started:.0f} s", flush=True)
    return python


def requirements(*names):
    """How pyproject.toml's `dev` list pins some packages, so that no script pins them again."""
    dev = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["dev"]
    pins = {re.match(r"[A-Za-z0-9._-]+", line)[0]: line for line in dev}
    return [pins[name] for name in names]


def _is_current(folder, wanted):
    stamp = _stamp(folder, wanted)
    is_same = stamp.exists() and stamp.read_text() == _digest()
    return is_same and (folder / "bin" / "python").exists()


def _stamp(folder, wanted):
    return folder / f"installed-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]}"


def _digest():
    # The place too: neither a virtual environment nor an editable install survives a move.
    return hashlib.sha256(f"{ROOT}\0{PYPROJECT.read_text()}".encode()).hexdigest()


def _is_alive(python):
    return (
        python.exists()
        and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    )


def _run(command):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if subprocess.run(command, cwd=ROOT, env=env).returncode:
        sys.exit("Setting up failed; pip says why above. Run it again when that is mended.")
