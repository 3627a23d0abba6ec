"""Log records: one line each, whatever an extension or a client put into them."""

import json
import logging
import sys

import pytest

from runnerwsgi import Settings
from runnerwsgi.logs import MAX_VALUE, JsonFormatter, configure, emit

log = logging.getLogger("runnerwsgi.test")
HOSTILE = "a\r\nb\x1b[2J\u2028\u202e\ud800é" + "x" * 5000


@pytest.fixture
def record(caplog):
    def make(**fields):
        with caplog.at_level(logging.DEBUG, "runnerwsgi"):
            emit(log, logging.INFO, "execute", **fields)
        return caplog.records[-1]

    return make


def test_a_record_as_text(record):
    line = record(status=200, path="/a b", quote='say "hi"', back="a\\b", nothing=None).getMessage()
    assert line == r'execute status=200 path="/a b" quote="say \"hi\"" back=a\\b'


def test_a_record_as_json(record):
    entry = json.loads(JsonFormatter().format(record(status=200, path="/a b", nothing=None)))
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "runnerwsgi.test",
        "event": "execute",
        "status": 200,
        "path": "/a b",
    }


@pytest.mark.parametrize("form", [logging.Formatter("%(message)s"), JsonFormatter()], ids=type)
def test_a_hostile_value_stays_on_its_line(record, form):
    line = form.format(record(path=HOSTILE))
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 2 * MAX_VALUE


def test_a_plain_message_and_a_traceback_are_one_json_line():
    try:
        raise ValueError("line\nend")
    except ValueError:
        info = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "plain\n%s", ("é",), info)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["event"] == "plain\\n\\xe9"
    assert "ValueError" in json.loads(line)["exception"]


def test_what_nobody_listens_to_is_not_rendered():
    class Loud:
        def __str__(self):
            raise AssertionError("rendered")

    logging.getLogger("runnerwsgi.silent").setLevel(logging.CRITICAL)
    emit(logging.getLogger("runnerwsgi.silent"), logging.INFO, "x", value=Loud())


@pytest.fixture
def restored():
    logger = logging.getLogger("runnerwsgi")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


def test_a_program_configures_form_and_level(restored, capsys):
    configure(Settings(log_format="json", log_level="warning"))
    emit(log, logging.INFO, "hidden")
    emit(log, logging.WARNING, "shown", status=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "shown"
