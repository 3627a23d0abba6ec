"""What commands print, in one place: tables, JSON, sizes, warnings, failures."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from runnerwsgi.errors import (
    ConfigurationError,
    IdentityUnavailable,
    Refused,
    RequestError,
    RunnerError,
    UpstreamError,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Their messages say what was found; what it means and what to do is their class's.
_SHORT = (RequestError, Refused, IdentityUnavailable)
# Who waits for longer is told what for.
PATIENCE_SECONDS = 3.0
# Words that a column may hold, and how they look on a terminal.
_PIPE_WIDTH = 4096
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red bold", "yes": "green", "no": "yellow"}


def print_json(value: Any) -> None:
    """Print one JSON value on stdout, for programs."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    # JSON lets some controls stand as they are, and terminals obey them.
    click.echo(
        "".join(char if char.isprintable() or char == "\n" else _json(char) for char in text)
    )


def _json(char: str) -> str:
    return char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1]


def console() -> Console:
    """A rich console on stdout; in a pipe, lines are as long as they are."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width, highlight=False, markup=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under column heads, as wide as what is in them."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        cells = [visible(str(cell)) for cell in row]
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    print_drawn(table)


def print_drawn(drawing: RenderableType) -> None:
    """Print what rich draws, such as a tree; what others wrote has to be :func:`visible` in it."""
    terminal = console()
    with terminal.capture() as drawn:
        terminal.print(drawing)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())


def say(text: str = "") -> None:
    """Print one line for people on stdout."""
    click.echo(text)


def note(text: str) -> None:
    """Print one line on stderr about what is going on; stdout stays for results."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    """Print one warning on stderr."""
    click.secho("warning: ", fg="yellow", bold=True, nl=False, err=True)
    click.echo(text, err=True)


def fault(text: str) -> None:
    """Print one line on stderr about something that failed."""
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(text, err=True)


@contextmanager
def working(text: str, waits_for: str = "") -> Iterator[Callable[[str], None]]:
    """Show on stderr that something takes its time: a spinner, or one line in a pipe.

    What it gives is told how far one is, and shows that beside the spinner.

    Args:
        text: what is done.
        waits_for: what keeps it, told in a line of its own once it takes three seconds; what
            came of the waiting is then told in another one.
    """
    from rich.console import Console
    from rich.text import Text

    terminal = Console(stderr=True, highlight=False, markup=False)
    if not terminal.is_terminal:
        note(f"{text} …")
        with _patience(waits_for, note):
            yield lambda detail: None
        return
    with (
        terminal.status(Text(f"{text} …")) as status,
        # Above the spinner, and there to stay.
        _patience(waits_for, lambda line: terminal.print(Text(line))),
    ):
        room = max(0, terminal.width - len(text) - 6)
        yield lambda detail: status.update(Text(f"{text} … {visible(detail)[:room]}"))


@contextmanager
def _patience(waits_for: str, tell: Callable[[str], None]) -> Iterator[None]:
    if not waits_for:
        yield
        return
    began, told, came = time.monotonic(), threading.Event(), "Gave up"

    def say_so() -> None:
        told.set()
        tell(f"Waiting for {waits_for} …")

    timer = threading.Timer(PATIENCE_SECONDS, say_so)
    timer.daemon = True
    timer.start()
    try:
        yield
        came = "Done"
    finally:
        timer.cancel()
        timer.join()
        if told.is_set():
            tell(f"{came} after {time.monotonic() - began:.1f} s.")


def visible(text: str) -> str:
    """*text* with control characters escaped: what others wrote must not steer a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def counted(number: int, noun: str) -> str:
    """``1 grant``, ``2 grants``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def size(count: int) -> str:
    """A number of bytes as people read it."""
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} bytes"


def error_lines(exc: BaseException) -> list[str]:
    """What *exc* is told as: one line, or one for each of several faults of a configuration."""
    if isinstance(exc, ConfigurationError):
        return [_folded(fault) for fault in exc.faults]
    if isinstance(exc, UpstreamError):
        # Its advice is for those who must not read what it says.
        return [_folded(f"{exc.title}: {_sentence(exc)}")]
    if isinstance(exc, _SHORT):
        return [_folded(f"{exc.title}: {_sentence(exc)} {exc.advice}")]
    if isinstance(exc, RunnerError):
        return [_folded(str(exc))]
    if isinstance(exc, OSError) and exc.strerror:
        return [_folded(f"{exc.filename or 'the system'}: {exc.strerror}.")]
    return [
        _folded(f"{type(exc).__name__}: {exc}. This is a fault of runnerwsgi: --debug shows where.")
    ]


def _sentence(exc: BaseException) -> str:
    text = str(exc)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _folded(text: str) -> str:
    """One line; where there are several things to mend, one indented line for each."""
    first, *rest = visible(text).splitlines() or [""]
    if len(rest) == 1:
        return f"{first} {rest[0]}"
    return "\n  ".join([first, *rest])


def error_fields(exc: BaseException) -> dict[str, Any]:
    """*exc* for programs: its code and message, and every fault where there are several."""
    code = exc.code if isinstance(exc, RunnerError) else "internal"
    lines = error_lines(exc)
    return {"code": code, "message": "\n".join(lines), "faults": lines}
