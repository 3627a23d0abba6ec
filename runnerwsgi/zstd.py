"""One zstd frame, in and out, within the limits of security §4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard

from .errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WINDOW_BYTES = 8 * 1024 * 1024
MAX_OUTPUT_BYTES = 256 * 1024 * 1024
MAX_RATIO = 200
# What a tiny archive may grow to: a tar pads every file to whole blocks.
RATIO_ALLOWANCE = 1024 * 1024

LEVEL = 10

REPACK = "Repack it with `runnerwsgi pack`, or with `zstd -19`."

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_HEADER = 3
# A block holds up to 128 KiB; a frame of very many tiny ones is made to waste our time.
_MAX_BLOCKS = 64 * 1024
_RLE, _RESERVED = 1, 3


def compress(data: bytes) -> bytes:
    """Compress into one frame with its size and checksum; the same bytes every time."""
    compressor = zstandard.ZstdCompressor(
        level=LEVEL, write_checksum=True, write_content_size=True, threads=0
    )
    return compressor.compress(data)


def reader(data: bytes) -> FrameReader:
    """Open *data*, which must be exactly one whole frame, for reading.

    Raises:
        BundleError: not zstd, a skippable frame, a dictionary, a window above 8 MiB, a frame
            that is cut short, or bytes after it.
    """
    _check_parameters(data)
    end = _frame_end(data)
    if end != len(data):
        raise _refuse(f"there are {len(data) - end} bytes after its frame")
    limit = min(MAX_RATIO * len(data) + RATIO_ALLOWANCE, MAX_OUTPUT_BYTES)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    return FrameReader(decompressor.stream_reader(data).read, limit)


class FrameReader:
    """The contents of one frame; ``read`` returns what was asked for, less only at the end.

    Example::

        frame = reader(archive)
        header = frame.read(512)
    """

    def __init__(self, read_some: Callable[[int], bytes], limit: int) -> None:
        self._read_some = read_some
        self._limit = limit
        self._total = 0

    def read(self, size: int, /) -> bytes:
        """Return the next *size* bytes, or what is left of them.

        Raises:
            BundleError: the frame is damaged, or grows beyond its limit.
        """
        out = bytearray()
        while len(out) < size and (chunk := self._next(size - len(out))):
            out += chunk
        return bytes(out)

    def _next(self, size: int) -> bytes:
        try:
            chunk = self._read_some(size)
        except zstandard.ZstdError as error:
            raise _refuse(f"it is damaged ({error})") from error
        self._total += len(chunk)
        if self._total > self._limit:
            raise _refuse(
                f"it grows to more than {self._limit} bytes "
                f"({MAX_RATIO} times its size and {RATIO_ALLOWANCE} bytes, "
                f"at most {MAX_OUTPUT_BYTES})"
            )
        return chunk


def _refuse(what: str) -> BundleError:
    return BundleError(f"The bundle's zstd compression is refused: {what}. {REPACK}")


def _check_parameters(data: bytes) -> None:
    if data[:4] != _MAGIC:
        raise _refuse(f"it begins with {data[:4]!r} and not with a zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError as error:
        raise _refuse(f"its header is damaged ({error})") from error
    if parameters.dict_id:
        raise _refuse(f"it needs the dictionary {parameters.dict_id}")
    if parameters.window_size > MAX_WINDOW_BYTES:
        raise _refuse(f"its window is {parameters.window_size} bytes, more than {MAX_WINDOW_BYTES}")


def _frame_end(data: bytes) -> int:
    """Where the frame ends, found by walking its blocks (RFC 8878 §3.1.1).

    The decompressor's reader takes a frame that is cut short for one that has ended.
    """
    at = zstandard.frame_header_size(data)
    for _ in range(_MAX_BLOCKS):
        header = int.from_bytes(data[at : at + _BLOCK_HEADER], "little")
        is_last, kind, size = header & 1, header >> 1 & 3, header >> 3
        at += _BLOCK_HEADER + (1 if kind == _RLE else size)
        if kind == _RESERVED:
            raise _refuse("it has a block of a reserved type")
        if at > len(data):
            raise _refuse("it is cut short")
        if is_last:
            return _after_checksum(data, at)
    raise _refuse(f"it has more than {_MAX_BLOCKS} blocks")


def _after_checksum(data: bytes, at: int) -> int:
    at += 4 if zstandard.get_frame_parameters(data).has_checksum else 0
    if at > len(data):
        raise _refuse("it is cut short")
    return at
