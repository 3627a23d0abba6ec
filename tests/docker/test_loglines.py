"""Log lines as people read them."""

import json

import pytest
from runnerwsgi_docker.loglines import Line, Wanted, chosen

EXECUTE = {
    "time": "2026-05-04T12:34:56.789Z",
    "level": "info",
    "logger": "runnerwsgi.server",
    "event": "execute",
    "request_id": "0123456789abcdef",
    "extension_id": "demo.notes",
    "status": 200,
    "message": "two words",
    "compiled": True,
}
WARNING = EXECUTE | {"level": "warning", "event": "store failed", "extension_id": "demo.other"}
LAST_WORDS = "MemoryError"
LINES = [json.dumps(EXECUTE), json.dumps(WARNING), LAST_WORDS]


def test_a_line_is_told_with_its_fields():
    assert str(Line.parse(json.dumps(EXECUTE))) == (
        "12:34:56.789 info    execute request_id=0123456789abcdef extension_id=demo.notes "
        'status=200 message="two words" compiled=true'
    )


def test_an_exception_keeps_its_lines():
    line = json.dumps(EXECUTE | {"exception": "Traceback\n  here"})
    assert str(Line.parse(line)).endswith("compiled=true\nTraceback\n  here")


@pytest.mark.parametrize("raw", [LAST_WORDS, "[1]", '{"status": 1}', "[" * 100_000, ""])
def test_what_is_no_line_of_ours_is_shown_as_it_is(raw):
    assert str(Line.parse(raw)) == raw


def test_what_others_wrote_does_not_steer_the_terminal():
    assert "\x1b" not in str(Line.parse("\x1b[2J"))
    assert "\x1b" not in str(Line.parse(json.dumps(EXECUTE | {"message": "\x1b[2J"})))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), [0, 1, 2]),
        (Wanted(level="warning"), [1, 2]),
        (Wanted(level="critical"), []),
        (Wanted(extension="demo.notes"), [0]),
        (Wanted(request="01234"), [0, 1]),
        (Wanted(request="01234", extension="demo.other", level="info"), [1]),
        (Wanted(request="f"), []),
    ],
    ids=["all", "warnings", "the worst", "an extension", "a request", "all three", "none"],
)
def test_lines_are_chosen(wanted, found):
    assert [line.raw for line in chosen(LINES, wanted)] == [LINES[index] for index in found]
