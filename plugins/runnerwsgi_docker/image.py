"""The image of the runner: what goes into it, and building it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runnerwsgi.errors import ConfigurationError
from runnerwsgi.settings import read

from . import DEFAULT_BASE, SETTINGS, wheel
from .engine import Engine, EngineError

DOCKERFILE = Path(__file__).with_name("Dockerfile")
DOWNLOAD_SECONDS = 600
# What pip does not see is needed: it holds conditions against the Python that it runs in, not
# against the base's. redis-py wants this one below 3.11.3, and Debian 12 has 3.11.2.
_BY_CONDITION = ("async-timeout>=4.0.3",)
# Says what the wheels beside it were downloaded for.
_STAMP = "made-for.txt"

_FACTS = (
    "import json, platform, sys; print(json.dumps([list(sys.version_info[:2]), "
    "platform.machine(), platform.libc_ver()[1]]))"
)
# What `docker build` says with the old builder, which is all that some systems have.
_NOISE = re.compile(r"DEPRECATED: The legacy builder|\s*Install the buildx component|\s*https://")


def default_tag() -> str:
    """The name of the image of this version."""
    return f"{wheel.NAME}:{wheel.version()}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image is made.

    Attributes:
        tag: its name.
        base: the image it is made from: any with Python 3.11 or newer and its venv module.
        wheels: a folder of wheels to take what is required from, filled when it is empty; None
            for the package index.
        cached: whether Docker may reuse layers of an earlier build.
    """

    tag: str
    base: str = DEFAULT_BASE
    wheels: Path | None = None
    cached: bool = True

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Recipe:
        """The image that an environment's ``RUNNER_DOCKER_*`` describe.

        Raises:
            ConfigurationError: a variable has a bad value.
        """
        found = read(SETTINGS, env)
        return cls(
            found["RUNNER_DOCKER_IMAGE"] or default_tag(),
            found["RUNNER_DOCKER_BASE"],
            found["RUNNER_DOCKER_WHEELS"],
        )


def build(
    engine: Engine, recipe: Recipe, heard: Callable[[str], object] = lambda line: None
) -> str:
    """Build the image; its id.

    The image that had the name before is removed, unless a container was made of it.

    Args:
        engine: builds it.
        recipe: how it is made.
        heard: is told each line that Docker says meanwhile.

    Raises:
        ConfigurationError: Docker says no, or something that goes in is missing.
    """
    prepare(engine, recipe, heard)
    before = engine.inspect("image", recipe.tag)
    with _context(recipe) as folder:
        for line in engine.lines("build", *_options(recipe), str(folder)):
            if not _NOISE.match(line):
                heard(line)
    found = engine.inspect("image", recipe.tag)
    if found is None:
        raise EngineError(f"The image {recipe.tag} was built, but is not there.", kind="other")
    if before and before["Id"] != found["Id"] and len(before["RepoTags"]) < 2:
        with suppress(EngineError):
            engine.run("image", "rm", before["Id"])
    return str(found["Id"])


def prepare(
    engine: Engine, recipe: Recipe, heard: Callable[[str], object] = lambda line: None
) -> None:
    """Fill the recipe's folder of wheels, if it has one that is empty or made for something else.

    Raises:
        ConfigurationError: as of :func:`download`.
    """
    if recipe.wheels is not None and not _fits(recipe.wheels, recipe.base):
        heard(f"Downloading wheels into {recipe.wheels}")
        download(engine, recipe.base, recipe.wheels)


def download(engine: Engine, base: str, folder: Path) -> int:
    """Fill a folder with the wheels that the image needs, for the Python of *base*.

    Returns:
        How many wheels there are now.

    Raises:
        ConfigurationError: the base cannot be run, or pip cannot get a wheel.
    """
    version, platforms = _python_of(engine, base)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += ["--dest", str(folder), "--only-binary=:all:", f"--python-version={version}"]
    pip += [f"--platform={name}" for name in platforms]
    try:
        ran = subprocess.run(
            [*pip, *wheel.requirements(), *_BY_CONDITION],
            text=True,
            capture_output=True,
            timeout=DOWNLOAD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"pip did not get the wheels within {DOWNLOAD_SECONDS} s. Try again; what is in "
            f"{folder} already is not fetched twice."
        ) from None
    if ran.returncode:
        said = ran.stderr.strip().splitlines() or ["it does not say why"]
        raise ConfigurationError(
            f"pip could not get the wheels for Python {version}: {said[-1]}. See whether the "
            f"package index can be reached, and whether this Python ({sys.executable}) has pip."
        )
    (folder / _STAMP).write_text(_stamp(base))
    return len(list(folder.glob("*.whl")))


def _fits(folder: Path, base: str) -> bool:
    """Whether the wheels are for this base; those that somebody else laid there are not judged."""
    stamp = folder / _STAMP
    if stamp.exists():
        return stamp.read_text() == _stamp(base)
    return any(folder.glob("*.whl"))


def _stamp(base: str) -> str:
    return "\n".join([base, *wheel.requirements(), ""])


def revision() -> str:
    """What this code is: the commit of a checkout, ``-dirty`` when it was changed since, or a hash.

    An installed wheel has no commit: its files' hash identifies it as well.
    """
    root = wheel.place(wheel.NAME).parent
    if (root / "pyproject.toml").exists() and (root / ".git").exists():
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        try:
            ran = subprocess.run([*git, "--exclude=*"], text=True, capture_output=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            pass
        else:
            if ran.returncode == 0 and ran.stdout.strip():
                return ran.stdout.strip()
    return wheel.fingerprint()


@contextmanager
def _context(recipe: Recipe) -> Iterator[Path]:
    """The folder that Docker gets: nothing in it but what the Dockerfile copies."""
    with tempfile.TemporaryDirectory(prefix="runnerwsgi-image-") as name:
        folder = Path(name)
        for part in ("own", "wheels"):
            (folder / part).mkdir()
        wheel.write(folder / "own")
        for path in sorted(recipe.wheels.glob("*.whl")) if recipe.wheels else ():
            if not path.name.startswith(f"{wheel.NAME}-"):
                shutil.copy(path, folder / "wheels")
        (folder / "requirements.txt").write_text("\n".join([*wheel.requirements(), ""]))
        shutil.copy(DOCKERFILE, folder)
        yield folder


def _options(recipe: Recipe) -> list[str]:
    arguments: Mapping[str, str] = {
        "BASE": recipe.base,
        "IMAGE": recipe.tag,
        "VERSION": wheel.version(),
        "REVISION": revision(),
        "PIP_NO_INDEX": "1" if recipe.wheels else "",
    }
    # A build that fails leaves no container behind; only the old builder needs to be told.
    options = [f"--tag={recipe.tag}", "--force-rm", *([] if recipe.cached else ["--no-cache"])]
    return options + [f"--build-arg={name}={value}" for name, value in arguments.items()]


def _python_of(engine: Engine, base: str) -> tuple[str, list[str]]:
    """The version of a base image's Python, and the platforms whose wheels it can use."""
    said = engine.run(
        *("run", "--rm", "--network=none", "--entrypoint=python3", base, "-c", _FACTS),
        timeout=DOWNLOAD_SECONDS,
    )
    (major, minor), machine, libc = json.loads(said.splitlines()[-1])
    if (major, minor) < (3, 11):
        raise ConfigurationError(
            f"{base} has Python {major}.{minor}: choose a base with 3.11 or newer."
        )
    return f"{major}.{minor}", _platforms(machine, libc)


def _platforms(machine: str, libc: str) -> list[str]:
    """The platform tags of PEP 600, newest first; those of PEP 656 where there is no glibc."""
    if not libc:
        return [f"musllinux_1_{minor}_{machine}" for minor in (2, 1)]
    newest = int(libc.split(".")[1])
    glibc = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 4, -1)]
    return [*glibc, f"manylinux2014_{machine}", f"linux_{machine}"]
