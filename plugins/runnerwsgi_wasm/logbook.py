"""The log lines of one call: the guest's own, and what it wrote to stdout and stderr."""

from __future__ import annotations

from runnerwsgi.protocol import Level, LogLine

_STREAM_LEVELS: dict[int, Level] = {1: "info", 2: "warn"}
_LONGEST_LINE = 8192


class Logbook:
    r"""Collects lines up to a cap in bytes and in lines, then says once that it stopped.

    Example::

        book = Logbook(max_bytes=65536, max_lines=1000)
        book.add("info", "hello")
        book.write(1, b"from stdout\n")
        lines = book.close()
    """

    def __init__(self, max_bytes: int, max_lines: int) -> None:
        self._left_bytes = max_bytes
        self._left_lines = max_lines
        self._lines: list[LogLine] = []
        self._partial = {stream: bytearray() for stream in _STREAM_LEVELS}
        self._dropped = 0

    def add(self, level: Level, message: str) -> None:
        """Keep a line, cut to what there is still room for."""
        message = message[:_LONGEST_LINE]
        size = len(message.encode(errors="replace"))
        if size > self._left_bytes or not self._left_lines:
            self._dropped += 1
            return
        self._left_bytes -= size
        self._left_lines -= 1
        self._lines.append(LogLine(level, message))

    def write(self, stream: int, data: bytes) -> None:
        """Take what the guest wrote to stdout (1) or stderr (2); each line is a log line."""
        partial = self._partial[stream]
        *lines, rest = (bytes(partial) + data).split(b"\n")
        for line in lines:
            self._end_line(stream, line)
        # A line without an end is cut, or it would grow past every cap.
        if len(rest) > _LONGEST_LINE:
            self._end_line(stream, rest)
            rest = b""
        partial[:] = rest

    def _end_line(self, stream: int, line: bytes) -> None:
        if line := line.rstrip(b"\r"):
            self.add(_STREAM_LEVELS[stream], line[:_LONGEST_LINE].decode(errors="replace"))

    def close(self) -> tuple[LogLine, ...]:
        """Every line kept, those without an end included."""
        for stream, partial in self._partial.items():
            self._end_line(stream, bytes(partial))
            partial.clear()
        if self._dropped:
            note = f"{self._dropped} more log lines were dropped: the call's log is full"
            self._lines.append(LogLine("warn", note))
            self._dropped = 0
        return tuple(self._lines)
