"""A call's log keeps lines up to its caps, and says when it stopped."""

import pytest
from runnerwsgi_wasm.logbook import Logbook

from runnerwsgi.protocol import LogLine

STDOUT, STDERR = 1, 2


@pytest.fixture
def book():
    return Logbook(max_bytes=10_000, max_lines=10)


def test_what_is_written_becomes_lines(book):
    book.write(STDOUT, b"one\ntw")
    book.write(STDERR, b"warn")
    book.write(STDOUT, b"o\r\n\nend")
    assert book.close() == (
        LogLine("info", "one"),
        LogLine("info", "two"),
        LogLine("info", "end"),
        LogLine("warn", "warn"),
    )


def test_bytes_that_are_no_text_are_kept_as_marks(book):
    book.write(STDOUT, "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n \xff".encode("latin-1"))
    assert book.close()[0].message == "gr\N{REPLACEMENT CHARACTER}n \N{REPLACEMENT CHARACTER}"


def test_a_character_in_two_writes_is_whole(book):
    book.write(STDOUT, "ü".encode()[:1])
    book.write(STDOUT, "ü".encode()[1:])
    assert book.close() == (LogLine("info", "ü"),)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [(["x"] * 11, 10), (["x" * 4000] * 3, 2)],
    ids=["too many lines", "too many bytes"],
)
def test_a_full_log_says_so_once(book, lines, kept):
    for line in lines:
        book.add("error", line)
    closed = book.close()
    assert len(closed) == kept + 1
    assert closed[-1] == LogLine("warn", "1 more log lines were dropped: the call's log is full")
    assert book.close()[:kept] == closed[:kept]


def test_a_line_without_an_end_does_not_grow_without_one(book):
    for _ in range(100):
        book.write(STDOUT, b"x" * 1000)
    assert all(len(line.message) <= 8192 for line in book.close())
