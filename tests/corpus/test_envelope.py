"""The corpus's hostile envelopes: a backend parses them as a remote one will, and answers."""

import json

import pytest
from corpus.cases import CORPUS
from support import EXTENSION, Recorder, Site

from runnerwsgi import Settings
from runnerwsgi.wire import response_from_json

MAX_BYTES = Settings().max_response_bytes
# Ahead of the remote backends with whose arrival they are due; the bytes of HTTP come with those.
CASES = [
    case
    for case in CORPUS["cases"]
    if case["group"] == "envelope-response" and case["input"]["layer"] == "envelope"
]


def many_headers(count):
    return {"headers": {f"x-ext-{index}": "1" for index in range(count)}}


GENERATORS = {
    "status_digits": lambda count: b'{"status":' + b"9" * count + b',"headers":{}}',
    "envelope_headers": many_headers,
    "envelope_header_value_bytes": lambda size: {"headers": {"x-ext-a": "a" * size}},
    "envelope_body_bytes": lambda _: {"body_b64": "A" * (MAX_BYTES + 4)},
}


def envelope_of(case):
    for kind, value in case["input"].get("gen", {}).items():
        made = GENERATORS[kind](value)
        return made if isinstance(made, bytes) else json.dumps({"status": 200, **made}).encode()
    return fill(case["input"]["envelope"]).encode("latin-1")


def fill(text):
    return text.replace("{EXEC}", f"/api/ext/{EXTENSION}/")


class Remote(Recorder):
    envelope = b""

    def answer(self, request):
        return response_from_json(self.envelope, MAX_BYTES)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site"), backend=Remote) as site:
        yield site


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
    # Refused by its length, before any of it is decoded.
    "max_rss_growth_mib": lambda answer, _: answer.code == "bad-runner-response",
}


@pytest.mark.parametrize("case", CASES, ids=[f"{case['id']} {case['title']}" for case in CASES])
def test_a_hostile_envelope_is_answered_as_the_corpus_says(case, site):
    site.backend.envelope = envelope_of(case)
    answer = site.call()
    for key, expected in case["expect"].items():
        assert CHECKS[key](answer, expected), (key, expected, answer)
