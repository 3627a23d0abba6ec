"""Our own wheel, made of the files that run here: no index, no pip and no network is needed."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from runnerwsgi.errors import ConfigurationError

NAME = "runnerwsgi"
# Of a runner: the engine, and what its settings may name. PostgreSQL's driver is the largest.
EXTRAS = ("wasm", "s3", "redis", "postgres")

_WHEEL = "Wheel-Version: 1.0\nGenerator: runnerwsgi\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# Fixed: the same files are the same bytes, so that Docker finds the layer in its cache.
_TIME = (1980, 1, 1, 0, 0, 0)
_EXTRA = re.compile(r"""(?P<requirement>[^;]+?)\s*;\s*extra\s*==\s*['"](?P<extra>[^'"]+)['"]""")


def write(folder: Path) -> Path:
    """Write the wheel of this very installation, editable or not, into *folder*.

    Raises:
        ConfigurationError: runnerwsgi runs from files that no distribution is recorded for.
    """
    dist = _installed()
    info = f"{NAME}-{dist.version}.dist-info"
    files = dict(_packages(dist))
    files |= {f"{info}/{name}": data for name, data in _metadata(dist).items()}
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    path = folder / f"{NAME}-{dist.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def version() -> str:
    """The version that is installed."""
    return _installed().version


def fingerprint() -> str:
    """A name for exactly these files, where there is no commit to name."""
    dist = _installed()
    record = _record({**dict(_packages(dist)), **_metadata(dist)}, "")
    return f"sha256:{hashlib.sha256(record).hexdigest()}"


def requirements() -> tuple[str, ...]:
    """What the runner in the image needs: ours, and those of the extras it has."""
    found = []
    for line in _installed().requires or ():
        match = _EXTRA.fullmatch(line)
        if match is None:
            found.append(line)
        elif match["extra"] in EXTRAS:
            found.append(match["requirement"])
    return tuple(found)


def folders() -> tuple[Path, ...]:
    """Where the files are that it is made of."""
    return tuple(place(package) for package in _names(_installed()))


def _names(dist: Distribution) -> list[str]:
    return sorted((dist.read_text("top_level.txt") or NAME).split())


def _installed() -> Distribution:
    for dist in distributions(name=NAME):
        # Not the *.egg-info that setuptools leaves in a checkout, where `python -m` looks first.
        if dist.read_text("METADATA"):
            return dist
    raise ConfigurationError(
        "runnerwsgi runs from a folder that is not installed, so no image can be made of it. "
        "Install it, with `pip install -e .` in its checkout, and try again."
    )


def _packages(dist: Distribution) -> Iterator[tuple[str, bytes]]:
    """Every file of our packages, sorted by name."""
    for package in _names(dist):
        top = place(package)
        for path in sorted(top.rglob("*")):
            parts = path.relative_to(top).parts
            hidden = any(part.startswith((".", "__pycache__")) for part in parts)
            if path.is_file() and not hidden and path.suffix != ".pyc":
                yield "/".join((package, *parts)), path.read_bytes()


def place(package: str) -> Path:
    """The folder of one of our packages."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"The package {package} of runnerwsgi cannot be found: install runnerwsgi again."
        )
    return Path(spec.submodule_search_locations[0])


def _metadata(dist: Distribution) -> Mapping[str, bytes]:
    kept = ("METADATA", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
    found = {name: dist.read_text(name) for name in kept}
    # From inside a checkout, Python may find what setuptools left there first.
    found["METADATA"] = found["METADATA"] or dist.read_text("PKG-INFO")
    found["WHEEL"] = _WHEEL
    return {name: text.encode() for name, text in sorted(found.items()) if text}


def _record(files: Mapping[str, bytes], own: str) -> bytes:
    """The list of files and hashes that installers check."""
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    return "\n".join([*lines, f"{own},,", ""]).encode()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
