"""Builds guests with the published toolchains, once per state of their sources."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from wheels import ROOT

from runnerwsgi import wit
from runnerwsgi.cli.toolchains import COMPONENTIZE_JS, JavaScript, Run

HERE = Path(__file__).parent / "guests"
NOTES = ROOT / "examples" / "extensions" / "notes-panel"
BUILT = ROOT / ".cache" / "guests"
BIN = Path(sys.executable).parent
# What npm brings, laid out as in a RUNNER_HOME: it is fetched once for all.
FETCHED = BUILT / "toolchains"


def _run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}\n{done.stderr}"


def _digest(*parts):
    """One name for the contents of files, and for texts."""
    contents = (part.read_bytes() if isinstance(part, Path) else part.encode() for part in parts)
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


def _once(path, build):
    """*path*, made by *build* in a folder beside it when it is not there yet."""
    if not path.exists():
        scratch = path.with_suffix(".building")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        build(scratch).rename(path)
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def python_guest():
    """A component of `guests/python`, made with componentize-py."""
    source = HERE / "python" / "app.py"

    def build(scratch):
        shutil.copy(source, scratch)
        made = ("componentize", "app", "-o", "out.wasm")
        _run(BIN / "componentize-py", "-d", wit.ALGA, "-w", wit.WORLD, *made, cwd=scratch)
        return scratch / "out.wasm"

    digest = _digest(source, wit.ALGA)
    return _once(BUILT / f"python-{digest}.wasm", build).read_bytes()


def javascript_guest():
    """A component of `guests/javascript`, made with componentize-js."""
    source = HERE / "javascript" / "handler.js"

    def build(scratch):
        out = scratch / "dist" / "out.wasm"
        out.parent.mkdir()
        JavaScript(BUILT, print).compile(source, wit.ALGA, out, Run(print, verbose=False))
        return out

    digest = _digest(source, wit.ALGA, COMPONENTIZE_JS)
    return _once(BUILT / f"javascript-{digest}.wasm", build).read_bytes()


def notes(folder):
    """The example's extension, copied to *folder* with what `runnerwsgi build` made of it."""
    # Somebody may have built it where it is.
    ignored = shutil.ignore_patterns("dist", "__pycache__")

    def build(scratch):
        copy = shutil.copytree(NOTES, scratch / "notes", ignore=ignored)
        _run(BIN / "runnerwsgi", "build", copy, cwd=scratch)
        return copy

    sources = [path for path in sorted(NOTES.glob("*/*")) if path.parent.name in ("src", "ui")]
    files = [*sorted(NOTES.glob("*.json*")), *sources, wit.ALGA]
    built = _once(BUILT / f"notes-{_digest(*filter(Path.is_file, files))}", build)
    return shutil.copytree(built, folder)
