"""What is compared, and what is not: requests from a file and from a manifest, answers, fields."""

import json

import pytest

from runnerwsgi.errors import ConfigurationError
from runnerwsgi.manifest import Manifest
from runnerwsgi.parity import (
    Sample,
    Seen,
    differences,
    generated,
    read_samples,
    to_line,
    varying,
)
from runnerwsgi.protocol import ExecuteResponse, LogLine

OK = Seen(200, "ok", (("content-type", "text/plain"),), b"hello")


def seen(body=b"hello", status=200, **more):
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Seen(status, **{"outcome": "ok", "headers": OK.headers, **more}, body=value)


def fields(first, other, again=None):
    """The names of what differs."""
    found = differences("GET /", "docker", first, other, first if again is None else again)
    return [each.field for each in found]


class TestDifferences:
    def test_what_is_alike(self):
        assert fields(seen(), seen()) == []

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            (seen(status=201), ["status"]),
            (seen(outcome="timeout"), ["outcome"]),
            (seen(b"hallo"), ["body"]),
            (seen(headers=()), ["header content-type"]),
            (seen(headers=(*OK.headers, ("x-ext-a", "1"))), ["header x-ext-a"]),
            (seen(logs=("info: hi",)), ["log 1"]),
        ],
        ids=["status", "outcome", "body", "a header less", "a header more", "a log line"],
    )
    def test_what_is_not(self, other, named):
        assert fields(seen(), other) == named

    def test_the_order_of_one_headers_values_counts_and_of_headers_does_not(self):
        pairs = (("vary", "a"), ("vary", "b"), ("etag", "1"))
        assert fields(seen(headers=pairs), seen(headers=(pairs[2], *pairs[:2]))) == []
        assert fields(seen(headers=pairs), seen(headers=pairs[::-1])) == ["header vary"]

    def test_a_json_body_is_told_value_by_value(self):
        first, other = {"a": {"b/c": 1}, "d": [1, 2]}, {"a": {"b/c": 2}, "d": [1]}
        assert fields(seen(first), seen(other)) == ["body /a/b~1c", "body /d/1"]

    def test_and_byte_by_byte_where_its_values_are_alike(self):
        assert fields(seen(b'{"a": 1}'), seen(b'{"a":1}')) == ["body"]

    def test_no_body_is_not_an_empty_one(self):
        assert fields(seen(b""), Seen(200, "ok", OK.headers, None)) == ["body"]

    def test_what_changes_by_itself_is_left_out(self):
        first, other, again = (seen({"id": n, "name": "a"}) for n in (1, 2, 3))
        assert fields(first, other, again) == []
        assert varying(first, again) == {"body", "body /id"}
        assert fields(first, seen({"id": 2, "name": "b"}), again) == ["body /name"]

    def test_a_deep_body_is_no_trouble(self):
        deep, other = b"[" * 400 + b"1" + b"]" * 400, b"[" * 400 + b"2" + b"]" * 400
        assert len(fields(seen(deep), seen(other))) == 1


class TestSeen:
    def test_of_an_answer(self):
        logs = (LogLine("warn", "call r-77 is slow"),)
        response = ExecuteResponse(201, (("X-Ext-Call", "r-77"),), b"r-77!", logs=logs)
        found = Seen.of(201, None, response, "r-77")
        assert found.headers == (("x-ext-call", "…"),)
        assert found.body == "…!".encode()
        assert (found.outcome, found.logs) == ("ok", ("warn: call … is slow",))

    def test_of_a_failure_the_outcome_counts_and_its_text_does_not(self):
        found = Seen.of(502, "guest-trap", ExecuteResponse(0, outcome="guest_trap", error="x"), "r")
        assert found == Seen(502, "guest_trap")

    def test_of_a_call_that_nobody_answered(self):
        assert Seen.of(502, "backend-unreachable", None, "r") == Seen(502, "backend-unreachable")

    def test_of_an_answer_that_the_gateway_refused(self):
        response = ExecuteResponse(302, (("location", "https://elsewhere"),))
        assert Seen.of(502, "bad-runner-response", response, "r").outcome == "bad-runner-response"


class TestSamples:
    def test_every_field(self, tmp_path):
        path = tmp_path / "requests.jsonl"
        lines = (
            "# a comment",
            "",
            '{"path": "/notes"}',
            '{"method": "POST", "path": "/notes?a=1", "headers": {"Accept": "a/b"}, '
            '"json": {"text": "ü"}, "user": "", "roles": ["admin"], "keep": {"id": "/note/id"}}',
            '{"method": "PUT", "path": "/notes/${id}", "body": "for ${id}"}',
            '{"method": "PUT", "path": "/notes", "body_b64": "AP8="}',
        )
        path.write_text("\n".join(lines), "utf-8")
        plain, full, named, binary = read_samples(path)
        assert plain == Sample("GET", "/notes")
        body = '{"text": "ü"}'.encode()
        assert full == Sample(
            *("POST", "/notes?a=1", (("accept", "a/b"),), body, "", ("admin",), {"id": "/note/id"})
        )
        assert binary.body == b"\x00\xff"
        kept = full.kept(b'{"note": {"id": "n-1"}}')
        assert named.filled(kept) == Sample("PUT", "/notes/n-1", body=b"for n-1")
        assert named.filled(full.kept(b"no JSON")).path == "/notes/"

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("{", "line 1"),
            ("[]", "not a JSON object"),
            ('{"path": "notes"}', "begins with a slash"),
            ('{"method": "BREW", "path": "/"}', "method is one of"),
            ('{"path": "/", "header": {}}', "header is none of"),
            ('{"path": "/", "headers": {"a": 1}}', "headers is an object of texts"),
            ('{"path": "/", "roles": "admin"}', "roles is a list of texts"),
            ('{"path": "/", "user": 1}', "user is a text"),
            ('{"path": "/", "body": 1}', "body is a text"),
            ('{"path": "/", "body": "", "json": 1}', "a request has one body"),
            ('{"path": "/", "body_b64": "?"}', "standard base64"),
            ('{"path": "/${id}"}', "kept by no request before it"),
        ],
    )
    def test_a_line_that_is_wrong(self, tmp_path, line, told):
        path = tmp_path / "requests.jsonl"
        path.write_text(f"{line}\n")
        with pytest.raises(ConfigurationError, match=told) as raised:
            read_samples(path)
        assert len(raised.value.faults) == 1

    def test_a_file_that_cannot_be_read(self, tmp_path):
        with pytest.raises(ConfigurationError, match="No such file"):
            read_samples(tmp_path / "none")
        (tmp_path / "binary").write_bytes(b"\xff")
        with pytest.raises(ConfigurationError, match="UTF-8"):
            read_samples(tmp_path / "binary")

    @pytest.mark.parametrize(
        "sample",
        [
            Sample("GET", "/notes?a=%20"),
            Sample("POST", "/", (("accept", "a"),), "ü".encode(), "", ("admin", "b")),
            Sample("PUT", "/", body=b"\xff\x00"),
            Sample("PUT", "/", body=b""),
        ],
        ids=["plain", "full", "bytes", "an empty body"],
    )
    def test_what_is_written_is_read_again(self, tmp_path, sample):
        path = tmp_path / "requests.jsonl"
        path.write_text(f"{to_line(sample)}\n")
        assert read_samples(path) == [sample]

    def test_a_repeated_header_is_one_in_a_file(self):
        sample = Sample("GET", "/", (("accept", "a"), ("accept", "b")))
        assert json.loads(to_line(sample))["headers"] == {"accept": "a, b"}


class TestGenerated:
    def test_from_a_manifests_endpoints(self):
        endpoints = [
            {"method": "GET", "path": "/notes/:id", "handler": "dist/main"},
            {"method": "PUT", "path": "/notes", "handler": "dist/main", "access": "admin"},
        ]
        text = json.dumps({"name": "a.b", "version": "1.0.0", "api": {"endpoints": endpoints}})
        found = list(generated(Manifest.from_json(text)))
        labels = [sample.label for sample in found]
        assert len(set(labels)) == len(labels)
        assert {"GET /notes/1", "HEAD /notes/1", "PUT /notes (every byte)"} < set(labels)
        assert "GET /notes/%C3%A4%20b (an escaped path)" in labels
        assert {sample.roles for sample in found if sample.method == "PUT"} == {("admin",)}

    def test_without_any_it_asks_at_the_root(self):
        found = list(generated(Manifest.from_json('{"name": "a.b", "version": "1.0.0"}')))
        assert {sample.method for sample in found} == {"GET", "HEAD", "POST"}
