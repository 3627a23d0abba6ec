"""Builds guests with the published toolchains, once per state of their sources."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from runnerwsgi import wit

HERE = Path(__file__).parent / "guests"
BUILT = Path(__file__).parents[2] / ".cache" / "guests"


def _run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}\n{done.stderr}"


def _digest(*files):
    return hashlib.sha256(b"\0".join(Path(file).read_bytes() for file in files)).hexdigest()[:16]


def _once(path, build):
    """*path*, made by *build* in a folder beside it when it is not there yet."""
    if not path.exists():
        scratch = path.with_suffix(".building")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        build(scratch).rename(path)
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def python_guest(source=HERE / "python" / "app.py"):
    """A component of `guests/python`, or of another `app.py`, made with componentize-py."""

    def build(scratch):
        shutil.copy(source, scratch)
        tool = Path(sys.executable).parent / "componentize-py"
        _run(
            *(tool, "-d", wit.ALGA, "-w", wit.WORLD, "componentize", "app", "-o", "out.wasm"),
            cwd=scratch,
        )
        return scratch / "out.wasm"

    return _once(BUILT / f"python-{_digest(source, str(wit.ALGA))}.wasm", build).read_bytes()


def _npm():
    package = HERE / "javascript" / "package.json"

    def build(scratch):
        shutil.copy(package, scratch)
        _run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", cwd=scratch)
        return scratch

    folder = BUILT / f"npm-{_digest(package)}"
    return _once(folder, build)


def javascript_guest():
    """A component of `guests/javascript`, made with componentize-js."""
    source, script = HERE / "javascript" / "handler.js", HERE / "javascript" / "build.mjs"

    def build(scratch):
        tools = _npm()
        shutil.copy(script, tools)
        out = scratch / "out.wasm"
        _run("node", tools / "build.mjs", source, wit.ALGA, out, cwd=tools)
        return out

    digest = _digest(source, script, str(wit.ALGA))
    return _once(BUILT / f"javascript-{digest}.wasm", build).read_bytes()
