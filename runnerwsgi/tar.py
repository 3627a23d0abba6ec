"""A strict reader and a deterministic writer for the tar archives inside bundles (security §4).

Strict means: ustar headers and GNU long names, regular files and folders, and nothing else.
What the standard library's reader repairs, skips or follows is refused here.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BLOCK = 512
MAX_ENTRIES = 10_000
MAX_FILE_BYTES = 128 * 1024 * 1024
MAX_DEPTH = 32
MAX_SEGMENT = 255
# A longer name could never be asked for: the gateway's cap on a request path is 2 KiB.
MAX_NAME = 2048

REPACK = "Repack it with `runnerwsgi pack`, or with `tar --format=ustar`."

_ZEROS = bytes(BLOCK)
_FILE, _FOLDER, _LONG_NAME = b"0", b"5", b"L"
# V7 archives mark a regular file with NUL, as some writers still do.
_KINDS = {b"\0": _FILE, _FILE: _FILE, _FOLDER: _FOLDER, _LONG_NAME: _LONG_NAME}
_REFUSED_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"K": "a GNU long link name",
    b"S": "a GNU sparse file",
    b"g": "a global pax header",
    b"x": "a pax header",
}
_POSIX_MAGIC, _GNU_MAGIC = b"ustar\x0000", b"ustar  \x00"
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_CHECKSUM = slice(148, 156)

_SEGMENT = re.compile(r"[A-Za-z0-9_@+~!$&'()=,-][A-Za-z0-9_@+~!$&'()=,.-]*(?<!\.)")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)

# Reproducible archives need one time for all; some tools warn about times before 1980.
_MTIME = 315_532_800


class Stream(Protocol):
    """What the reader reads from: ``read`` returns *size* bytes, fewer only at the end."""

    def read(self, size: int, /) -> bytes:
        """Return the next *size* bytes, or what is left of them."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or, with ``data`` None, one folder of an archive; its name has been checked."""

    name: str
    data: bytes | None


def read(stream: Stream) -> Iterator[Entry]:
    """Read an archive to its very last byte.

    Entries come as they stand in the archive. Keep nothing of them unless the iteration
    ends: one bad entry refuses the whole archive.

    Raises:
        BundleError: a bad name, kind, size or checksum, two names that meet where case is
            ignored, more than ``MAX_ENTRIES``, a missing end, or bytes after the end.
    """
    names = _Names()
    for raw_name, is_folder, data in _members(stream):
        name = _clean(raw_name, is_folder)
        if name:
            names.add(name, is_folder)
            yield Entry(name, None if is_folder else data)


def write(files: Mapping[str, bytes]) -> bytes:
    """Make an archive: the same files always give the same bytes.

    Args:
        files: contents by name; every name must be free of faults (:func:`name_fault`).
    """
    out = bytearray()
    for name in sorted(files):
        encoded = name.encode("ascii")
        if len(encoded) > 100:
            out += _member(b"././@LongLink", _LONG_NAME, encoded + b"\0")
        out += _member(encoded[:100], _FILE, files[name])
    return bytes(out + _ZEROS * 2)


def name_fault(name: str) -> str | None:
    """Say what is wrong with a relative file name in a bundle, or None when nothing is."""
    segments = name.split("/")
    if len(name) > MAX_NAME:
        return f"is longer than {MAX_NAME} bytes"
    if len(segments) > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} folders deep"
    return next((fault for segment in segments if (fault := _segment_fault(segment))), None)


def _segment_fault(segment: str) -> str | None:
    if not segment:
        return "has an empty part"
    if len(segment) > MAX_SEGMENT:
        return f"has a part of more than {MAX_SEGMENT} bytes"
    if segment[0] == "." or segment[-1] == ".":
        return "has a part that begins or ends with a dot"
    if not _SEGMENT.fullmatch(segment):
        return "has a character outside A-Z a-z 0-9 _ @ + ~ ! $ & ' ( ) = , . -"
    if _DEVICE.fullmatch(segment):
        return f"has the part {segment!r}, which is a device on Windows"
    return None


def _refuse(what: str) -> BundleError:
    return BundleError(f"The bundle's tar archive is refused: {what}. {REPACK}")


def _shown(name: str) -> str:
    """A hostile name as one short, printable word."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")


class _Names:
    """Every path of an archive: no two may meet on a file system that ignores case."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, bool]] = {}

    def add(self, name: str, is_folder: bool) -> None:
        end = name.find("/")
        while end != -1:
            self._add(name[:end], True)
            end = name.find("/", end + 1)
        self._add(name, is_folder)

    def _add(self, name: str, is_folder: bool) -> None:
        key = name.lower()
        known = self._known.get(key)
        if known is None:
            self._known[key] = (name, is_folder)
        elif known != (name, True) or not is_folder:
            raise _refuse(f"{_shown(name)} and {_shown(known[0])} would be one path")


def _members(stream: Stream) -> Iterator[tuple[bytes, bool, bytes]]:
    """Yield (name, is a folder, contents), long names joined, up to the end of the archive."""
    long_name: bytes | None = None
    for header in _headers(stream):
        kind, size = _kind(header), _size(header)
        data = _contents(stream, size)
        if kind == _LONG_NAME:
            if long_name is not None:
                raise _refuse("a GNU long name follows another")
            long_name = _unterminated(data)
            continue
        yield long_name or _short_name(header), kind == _FOLDER, data
        long_name = None
    if long_name is not None:
        raise _refuse("a GNU long name is the last entry")


def _headers(stream: Stream) -> Iterator[bytes]:
    """Yield the header blocks whose contents the caller reads in between."""
    count = 0
    while (header := _take(stream, BLOCK)) != _ZEROS:
        count += 1
        if count > MAX_ENTRIES:
            raise _refuse(f"it has more than {MAX_ENTRIES} entries")
        _check_header(header)
        yield header
    _check_end(stream)


def _check_end(stream: Stream) -> None:
    if _take(stream, BLOCK) != _ZEROS:
        raise _refuse("its end has one zero block instead of two")
    while chunk := stream.read(64 * BLOCK):
        if any(chunk):
            raise _refuse("there are bytes after its end")


def _check_header(header: bytes) -> None:
    if header[257:265] not in (_POSIX_MAGIC, _GNU_MAGIC):
        raise _refuse("a header is not in the ustar or GNU format")
    expected = _octal(header[_CHECKSUM], "checksum")
    if sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ") != expected:
        raise _refuse("the checksum of a header is wrong")


def _kind(header: bytes) -> bytes:
    flag = header[156:157]
    kind = _KINDS.get(flag)
    if kind is None:
        found = _REFUSED_KINDS.get(flag, f"an entry of unknown type {flag!r}")
        name = _short_name(header).decode("latin-1")
        raise _refuse(f"{_shown(name)} is {found}; only files and folders are allowed")
    return kind


def _size(header: bytes) -> int:
    size, kind = _octal(header[124:136], "size"), _kind(header)
    if kind == _LONG_NAME and size > MAX_NAME + 1:
        raise _refuse(f"it has a name that is longer than {MAX_NAME} bytes")
    limit = 0 if kind == _FOLDER else MAX_FILE_BYTES
    if size > limit:
        name = _short_name(header).decode("latin-1")
        raise _refuse(f"{_shown(name)} has {size} bytes, more than the {limit} allowed")
    return size


def _octal(field: bytes, what: str) -> int:
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise _refuse(f"the {what} {field!r} in a header is not an octal number")
    return int(match[1], 8)


def _contents(stream: Stream, size: int) -> bytes:
    data = _take(stream, size)
    _take(stream, -size % BLOCK)
    return data


def _take(stream: Stream, size: int) -> bytes:
    data = stream.read(size) if size else b""
    if len(data) != size:
        raise _refuse("it is cut short")
    return data


def _short_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    # GNU keeps times where POSIX keeps the first part of a long name.
    prefix = header[345:500].partition(b"\0")[0] if header[257:265] == _POSIX_MAGIC else b""
    return prefix + b"/" + name if prefix else name


def _unterminated(data: bytes) -> bytes:
    name, _, rest = data.partition(b"\0")
    if any(rest) or not name:
        raise _refuse("a GNU long name is malformed")
    return name


def _clean(raw_name: bytes, is_folder: bool) -> str:
    """The checked name without a leading ``./``; empty for the archive's own root."""
    name = raw_name.decode("latin-1")
    if is_folder and name in (".", "./"):
        return ""
    cleaned = name.removeprefix("./")
    if is_folder:
        cleaned = cleaned.removesuffix("/")
    if fault := name_fault(cleaned):
        raise _refuse(f"the name {_shown(name)} {fault}")
    return cleaned


def _member(name: bytes, kind: bytes, data: bytes) -> bytes:
    fields = (
        name,
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % len(data),
        b"%011o\0" % _MTIME,
        b" " * 8,
        kind,
        b"",
        _GNU_MAGIC,
        b"",
        b"",
        b"",
        b"",
        b"",
    )
    header = bytearray(_HEADER.pack(*fields))
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % BLOCK)
