"""The runner's log lines, JSON as it writes them, as people read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from runnerwsgi.cli.output import visible

LEVELS = ("debug", "info", "warning", "error", "critical")
STYLES = {"warning": "yellow", "error": "red", "critical": "red", "debug": "bright_black"}

# Told in front of the line; the rest follows as key=value.
_HEAD = frozenset({"time", "level", "logger", "event", "exception"})


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log.

    Attributes:
        raw: as it was written.
        fields: what it says; empty for one that is not ours, such as Python's own last words.
    """

    raw: str
    fields: dict[str, Any]

    @classmethod
    def parse(cls, raw: str) -> Line:
        """Read a line, whatever is in it."""
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        return cls(raw, found if isinstance(found, dict) and "event" in found else {})

    @property
    def level(self) -> str:
        """One of :data:`LEVELS`; what is not ours is an error until somebody has read it."""
        level = str(self.fields.get("level", "error"))
        return level if level in LEVELS else "error"

    def __str__(self) -> str:
        if not self.fields:
            return visible(self.raw)
        clock = str(self.fields.get("time", ""))[11:23]
        event = str(self.fields["event"])
        rest = (f"{key}={_value(value)}" for key, value in self.fields.items() if key not in _HEAD)
        line = " ".join([clock, self.level.ljust(7), event, *rest])
        trace = self.fields.get("exception")
        return visible(f"{line}\n{trace}" if trace else line)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines somebody wants to see.

    Attributes:
        extension: its id.
        request: a request's id, or how it begins.
        level: the least severe one.
    """

    extension: str | None = None
    request: str | None = None
    level: str = "debug"

    def has(self, line: Line) -> bool:
        """Whether this is one of them."""
        if LEVELS.index(line.level) < LEVELS.index(self.level):
            return False
        if self.extension and line.fields.get("extension_id") != self.extension:
            return False
        told = str(line.fields.get("request_id", ""))
        return not self.request or told.startswith(self.request)


def chosen(lines: Iterable[str], wanted: Wanted) -> Iterator[Line]:
    """The lines that are wanted, in their order."""
    return filter(wanted.has, map(Line.parse, lines))


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text else text
