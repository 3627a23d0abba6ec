"""Wheels of this project and of its examples, built as a user's pip builds them."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN = ("pyproject.toml", "README.md", "LICENSE", "runnerwsgi", "plugins")
_NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", ".*")


def build_wheel(source, folder, names=OWN):
    """Build the wheel of a copy of *source*: setuptools leaves traces where it works."""
    copy = folder / "source"
    copy.mkdir(parents=True)
    for name in names:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=_NOT_SOURCE)
        else:
            shutil.copy(path, copy)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, copy)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run(*command, **options):
    """Run a command that must succeed; answer what it printed."""
    ran = subprocess.run(command, text=True, capture_output=True, **options)
    assert ran.returncode == 0, f"{command} ended with {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran.stdout
