"""Docker, through its command line: the one place that runs `docker`, and tells why it failed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runnerwsgi.errors import ConfigurationError

DEFAULT_SECONDS = 60.0
# What explains a failure is at the end of what a command said; a build says thousands of lines.
_KEPT_LINES = 40
# Plain lines from either builder, and no advertisements between them.
_ENVIRONMENT = {"BUILDKIT_PROGRESS": "plain", "DOCKER_CLI_HINTS": "false"}
# Who speaks, before what is said.
_ADDRESSED = re.compile(r"^(?:docker: )?(?:Error response from daemon: )?")


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which `docker` fails: its name, what it says then, and what to do."""

    kind: str
    pattern: re.Pattern[str]
    advice: str


def _failure(kind: str, pattern: str, advice: str) -> Failure:
    return Failure(kind, re.compile(pattern, re.IGNORECASE), advice)


# The first that fits is told. The texts are those of Docker 20.10 to 29, and of both builders.
FAILURES: tuple[Failure, ...] = (
    _failure(
        "no-permission",
        r"permission denied while trying to connect",
        "your user may not use the Docker daemon. Add it to the group `docker` and sign in again: "
        "`sudo usermod -aG docker $USER`.",
    ),
    _failure(
        "no-daemon",
        r"cannot connect to the docker daemon at (?P<name>[^\s;]+?)\.?\s|error during connect"
        r"|failed to connect to the docker api at (?P<name2>[^\s;]+)",
        "no Docker daemon answers{at}. Start it, with `sudo systemctl start docker` or Docker "
        "Desktop, or name its address in DOCKER_HOST.",
    ),
    _failure(
        "no-context",
        r"unable to resolve docker endpoint: context \"(?P<name>[^\"]+)\"",
        "there is no Docker context{named}. `docker context ls` lists them; see to DOCKER_CONTEXT.",
    ),
    _failure(
        "disk-full",
        r"no space left on device|disk quota exceeded",
        "the disk that Docker keeps its data on is full. `docker system df` shows what takes the "
        "space, `docker system prune` frees what is not in use.",
    ),
    _failure(
        "port-taken",
        r"(?:bind for (?P<name>[0-9.:\[\]a-f]+) failed: )?port is already allocated"
        r"|(?:listen tcp[46]? (?P<name2>\S+): bind: )?address already in use"
        r"|ports are not available",
        "another program has the port{named}. Stop it, or choose another: `runnerwsgi docker up "
        "--port 8090`.",
    ),
    _failure(
        "name-taken",
        r"container name \"/?(?P<name>[^\"]+)\" is already in use",
        "there is a container{named} already. Remove it with `docker rm -f {name}`, or choose "
        "another name.",
    ),
    _failure(
        "no-wheel",
        r"no matching distribution found for (?P<name>\S+)",
        "pip found no wheel of{named} for the Python of the base image. With --wheels, fill the "
        "folder with `runnerwsgi docker wheels`; else see whether the package index can be reached "
        "from a container.",
    ),
    _failure(
        "no-registry",
        r"(?:unable to find image '(?P<name>[^']+)'[\s\S]*?)?(?:dial tcp|no such host|tls handshake"
        r"|i/o timeout|client\.timeout|request canceled|temporary failure in name resolution"
        r"|connection refused)",
        "the image{named} is not on this machine, and no registry can be reached for it. "
        "`docker images` lists what is here: name one of them (RUNNER_DOCKER_BASE is what an image "
        "is built from), or mend the network.",
    ),
    _failure(
        "no-image",
        r"no such image: (?P<name>[^\s,]+)|unable to find image '(?P<name2>[^']+)'"
        r"|pull access denied for (?P<name3>[^\s,]+)|manifest unknown|manifest for .+ not found"
        r"|failed to resolve source metadata for (?P<name4>[^\s,]+)",
        "there is no image{named}, neither here nor in a registry that lets you have it. "
        "`docker images` lists what is here.",
    ),
    _failure(
        "no-container",
        r"no such container: (?P<name>\S+)",
        "there is no container{named}. `runnerwsgi docker up` starts one.",
    ),
    _failure(
        "not-running",
        r"container (?P<name>\S+) is not running",
        "the container{named} is not running. `runnerwsgi docker up` starts it.",
    ),
    _failure(
        "no-network",
        r"network (?P<name>\S+) not found|no such network: (?P<name2>\S+)",
        "there is no network{named}. `runnerwsgi docker up` makes its own.",
    ),
    _failure(
        "no-object",
        r"no such (?:object|volume|plugin): (?P<name>\S+)|get (?P<name2>\S+): no such volume",
        "there is nothing called{named} here.",
    ),
    _failure(
        "no-builder",
        r"buildx component is missing or broken",
        "DOCKER_BUILDKIT asks for a builder that is not installed. Install docker-buildx, or unset "
        "DOCKER_BUILDKIT.",
    ),
    _failure(
        "wrong-version",
        r"unknown (?:shorthand )?flag: (?P<name>\S+)|'(?P<name2>\S+)' is not a docker command",
        "this Docker does not know{named}. Update it: 20.10 or newer is needed.",
    ),
    _failure(
        "no-python",
        r"\"python3\": executable file not found|no module named venv|ensurepip is not",
        "the base image has no Python with its venv module. Choose one with --base; on Debian it "
        "needs python3 and python3-venv.",
    ),
)


class EngineError(ConfigurationError):
    """`docker` failed.

    Attributes:
        kind: which way, in a word of :data:`FAILURES`; ``no-docker``, ``silent`` or ``other``.
        said: the last lines that the command said.
    """

    def __init__(self, message: str, *, kind: str, said: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.said = said


class Engine:
    """A Docker Engine, as `docker` reaches it: contexts, DOCKER_HOST and logins are the user's.

    Example::

        engine = Engine()
        engine.run("container", "stop", "extension-runner")

    Args:
        command: the program to run.
        env: its environment; by default this process's own.
    """

    def __init__(self, command: str = "docker", env: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._env = {**_ENVIRONMENT, **(os.environ if env is None else env)}

    def run(
        self, *args: str, stdin: str | None = None, timeout: float | None = DEFAULT_SECONDS
    ) -> str:
        """Run `docker` with *args* to its end; what it printed on stdout.

        Args:
            args: the words after `docker`.
            stdin: what the command reads.
            timeout: seconds it may take; None for as long as it takes.

        Raises:
            EngineError: it could not be started, failed, or took too long.
        """
        with self._startable():
            try:
                ran = subprocess.run(
                    [self._command, *args],
                    input=stdin,
                    stdin=subprocess.DEVNULL if stdin is None else None,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=timeout,
                    env=self._env,
                )
            except subprocess.TimeoutExpired:
                raise _too_slow(args, timeout) from None
        if ran.returncode:
            raise _explained(args, ran.stderr or ran.stdout)
        return ran.stdout

    def lines(self, *args: str) -> Iterator[str]:
        """Run `docker` with *args*, giving each line of either stream as it comes.

        The command ends with the iterator; close it to end the command early.

        Raises:
            EngineError: it could not be started, or failed.
        """
        kept: deque[str] = deque(maxlen=_KEPT_LINES)
        with self._started(*args) as process:
            assert process.stdout is not None
            for line in process.stdout:
                kept.append(line.rstrip("\r\n"))
                yield kept[-1]
            status = process.wait()
        if status:
            raise _explained(args, "\n".join(kept))

    def inspect(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """What is known of an object; None when there is none.

        Args:
            kind: ``container``, ``image``, ``network`` or ``volume``.
            name: its name or id.

        Raises:
            EngineError: the daemon could not be asked.
        """
        try:
            found: list[dict[str, Any]] = json.loads(self.run(kind, "inspect", name))
        except EngineError as exc:
            if exc.kind in ("no-image", "no-container", "no-network", "no-object"):
                return None
            raise
        return found[0]

    @contextmanager
    def _started(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        with (
            self._startable(),
            subprocess.Popen(
                [self._command, *args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self._env,
            ) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()

    @contextmanager
    def _startable(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise EngineError(
                f"There is no command `{self._command}` on PATH. Install Docker, on Debian with "
                "`sudo apt-get install docker.io`, and try again.",
                kind="no-docker",
            ) from None
        except PermissionError:
            raise EngineError(
                f"`{self._command}` may not be run by your user. See to its permissions.",
                kind="no-docker",
            ) from None


def _too_slow(args: tuple[str, ...], timeout: float | None) -> EngineError:
    return EngineError(
        f"`docker {_verb(args)}` did not end within {timeout:.0f} s. `docker info` shows whether "
        "the Docker daemon answers at all.",
        kind="silent",
    )


def _explained(args: tuple[str, ...], said: str) -> EngineError:
    """The failure of a command in one line, from what it said last."""
    last = "\n".join(said.strip().splitlines()[-_KEPT_LINES:])
    what = f"`docker {_verb(args)}` failed"
    for failure in FAILURES:
        if found := failure.pattern.search(last + "\n"):
            name = next(filter(None, found.groupdict().values()), "")
            named, at = (f" {name}", f" at {name}") if name else ("", "")
            advice = failure.advice.format(name=name or "NAME", named=named, at=at)
            return EngineError(f"{what}: {advice}", kind=failure.kind, said=last)
    return EngineError(f"{what}: {_reason(last)}", kind="other", said=last)


def _verb(args: tuple[str, ...]) -> str:
    """``container stop`` of ``container stop extension-runner``: no argument, maybe a secret."""
    nouns = ("container", "image", "network", "volume", "context", "system", "compose")
    return " ".join(args[:2] if args[:1] and args[0] in nouns else args[:1])


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Run 'docker", "See 'docker"))]
    last = _ADDRESSED.sub("", told[-1]) if told else "it does not say why"
    return last if last.endswith(".") else f"{last}."
