"""The corpus's hostile envelopes: a runner sends them to the real `docker` backend."""

import base64
import json
import tracemalloc

import pytest
from corpus.cases import due
from corpus.remote import remote_site
from support import EXTENSION

from runnerwsgi import Settings

MAX_BYTES = Settings().max_response_bytes
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def many_headers(count):
    return {"headers": {f"x-ext-{index}": "1" for index in range(count)}}


GENERATORS = {
    "status_digits": lambda count: b'{"status":' + b"9" * count + b',"headers":{}}',
    "envelope_headers": many_headers,
    "envelope_header_value_bytes": lambda size: {"headers": {"x-ext-a": "a" * size}},
    "envelope_body_bytes": lambda _: {"body_b64": base64.b64encode(bytes(MAX_BYTES + 1)).decode()},
}


def envelope_of(case):
    for kind, value in case["input"].get("gen", {}).items():
        made = GENERATORS[kind](value)
        return made if isinstance(made, bytes) else json.dumps({"status": 200, **made}).encode()
    return fill(case["input"]["envelope"]).encode("latin-1")


def fill(text):
    return text.replace("{EXEC}", f"/api/ext/{EXTENSION}/")


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    with remote_site(tmp_path_factory.mktemp("site")) as (site, runner):
        runner.stays = True
        yield site, runner


def is_inert(answer, expected):
    if answer.status != 200:
        return True
    contained = expected["headers_contain"].items()
    # A sandbox without allow-same-origin is what keeps scripts from the application's origin.
    assert expected["script_runs_with_app_origin"] is False
    assert "allow-same-origin" not in answer.header("content-security-policy")
    return all(text in answer.header(name) for name, text in contained)


CHECKS = {
    "status": lambda answer, s: answer.status in (s if isinstance(s, list) else [s]),
    "problem": lambda answer, code: answer.code == code,
    "body": lambda answer, text: answer.body == text.encode("latin-1"),
    "body_len": lambda answer, length: len(answer.body) == length,
    "body_not_contains": lambda answer, texts: not any(t.encode() in answer.body for t in texts),
    "headers_present": lambda answer, names: all(answer.header(n) for n in names),
    "headers_absent": lambda answer, names: not any(answer.header(n) for n in names),
    "headers_not": lambda answer, pairs: all(answer.header(n) != v for n, v in pairs.items()),
    "headers_equal": lambda answer, pairs: all(
        answer.header(n) == fill(v) for n, v in pairs.items()
    ),
    "if_200": is_inert,
    "max_rss_growth_mib": lambda _, mib: tracemalloc.get_traced_memory()[1] < mib * 2**20,
}


@pytest.fixture
def traced():
    """Memory is watched from here on."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("case", due("test_envelope"))
def test_a_hostile_envelope_is_answered_as_the_corpus_says(case, remote, request):
    site, runner = remote
    body = envelope_of(case)
    runner.answer = HEAD % len(body) + body
    if "max_rss_growth_mib" in case["expect"]:
        request.getfixturevalue("traced")
    answer = site.call()
    assert runner.answer is None  # it was asked
    for key, expected in case["expect"].items():
        assert CHECKS[key](answer, expected), (key, expected, answer)
