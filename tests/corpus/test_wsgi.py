"""The corpus's hostile requests, through the middleware's WSGI door."""

import json
import logging
import time
from collections.abc import Callable

import pytest
from corpus.cases import due
from support import EXTENSION, FILES, Remote, Site, answer_with, http_server, make_environ, send

from runnerwsgi import Principal, Settings
from runnerwsgi.access import identifier
from runnerwsgi.logs import JsonFormatter
from runnerwsgi.wire import request_to_json

CASES = due("test_wsgi")
TEXT = logging.Formatter("%(levelname)s %(name)s: %(message)s")


class Run:
    """One case: its site, its environ, and afterwards everything that can be asked of it."""

    def __init__(self, case, folder, caplog):
        self.input = case["input"]
        self.folder = folder
        self.caplog = caplog
        self.settings = self._settings()
        added = {name: data.encode() for name, data in self.input.get("fixture", {}).items()}
        self.site = Site(folder, identify=self.identify, files=FILES | added, **self.settings)

    def _settings(self):
        given = self.input.get("config", {})
        if any(name.isupper() for name in given):
            read = Settings.from_env({**given, "RUNNER_HOME": str(self.folder)})
            return {
                name: getattr(read, name)
                for name in ("identity", "identity_header", "trusted_proxies")
            }
        return {name: tuple(value) for name, value in given.items()}

    def identify(self, environ):
        if "identity" in self.settings:
            return identifier(self.site.settings)(environ)
        match self.input.get("auth", "cookie"):
            case None:
                return None
            case "raise":
                raise RuntimeError("session store is down: secret detail")
            case {"tenant": tenant}:
                return Principal(tenant, "u1")
            case "bearer":
                return Principal("t1", "u1", credential="bearer")
            case "cookie":
                return Principal("t1", "u1")
        raise AssertionError(f"no such auth: {self.input['auth']}")

    def fill(self, text):
        text = text.replace("{ASSET}", "/runner/ext-ui/{EXT}/sha256:{HASH}/")
        text = text.replace("{EXEC}", "/api/ext/{EXT}/")
        hexes = self.site.bundle.content_hash.removeprefix("sha256:")
        return text.replace("{EXT}", EXTENSION).replace("{HASH}", hexes)

    def environ(self, method=None):
        given = self.input
        body = given.get("body", "").encode("latin-1")
        path = given["path_info"]
        environ = make_environ(given["method"] if method is None else method, "/", body)
        # A server says nothing of a length that the client did not send.
        if "CONTENT_LENGTH" in given.get("environ", {}):
            del environ["CONTENT_LENGTH"]
        environ.update(given.get("environ", {}))
        environ["PATH_INFO"] = None if path is None else self.fill(path)
        for kind, value in given.get("gen", {}).items():
            GENERATORS[kind](environ, value)
        return {key: value for key, value in environ.items() if value is not None}

    def start(self):
        environ = self.environ()
        self.keys_before = set(environ)
        with self.caplog.at_level(logging.DEBUG, "runnerwsgi"):
            self.caplog.clear()
            started = time.perf_counter()
            self.answer = send(self.site.app, environ)
            self.seconds = time.perf_counter() - started
            self.records = [r for r in self.caplog.records if r.name.startswith("runnerwsgi")]

    @property
    def requests(self):
        return self.site.backend.requests

    @property
    def asked(self):
        return self.requests + self.site.backend.assets

    @property
    def envelope(self):
        """What a remote runner would be sent."""
        (request,) = self.requests
        return json.loads(request_to_json(request))

    @property
    def lines(self):
        return [line for r in self.records for line in TEXT.format(r).split("\n")]

    @property
    def logged(self):
        return "\n".join(
            text for r in self.records for text in (TEXT.format(r), JsonFormatter().format(r))
        )


def repeat_path(environ, value):
    environ["PATH_INFO"] += value[0] * value[1]


def repeat_query(environ, value):
    environ["QUERY_STRING"] = value[0] * value[1]


def repeat_header(environ, value):
    environ[value[0]] = value[1] * value[2]


def many_headers(environ, count):
    environ.update({f"HTTP_X_MANY_{index}": "1" for index in range(count)})


def body_of(environ, size):
    environ["wsgi.input"] = type(environ["wsgi.input"])(bytes(size))
    environ["CONTENT_LENGTH"] = str(size)


def without_length(environ, _):
    del environ["CONTENT_LENGTH"]


GENERATORS = {
    "path_repeat": repeat_path,
    "query_repeat": repeat_query,
    "header_repeat": repeat_header,
    "headers_many": many_headers,
    "body_bytes": body_of,
    "no_content_length": without_length,
}


def dig(value, path):
    for name in path.split("."):
        value = value[name]
    return value


def has_status(run, expected):
    if expected == "host":
        return run.answer.from_host and run.answer.status == 200
    if expected == "any":
        return True
    return run.answer.status in (expected if isinstance(expected, list) else [expected])


def has_body(run, body):
    (request,) = run.requests
    return request.http.body == body.encode("latin-1")


def has_body_among(run, bodies):
    return run.answer.status != 200 or any(has_body(run, body) for body in bodies)


def is_own_tenant(run, expected):
    assert expected == "from-hook"
    # UI files are the same for every tenant: what counts is that no client's word is used.
    return run.asked and {getattr(a, "context", a).tenant_id for a in run.asked} == {"t1"}


def adds_only(run, keys):
    return set(run.answer.environ) - run.keys_before - {"test.host_called"} == set(keys)


def same_but_for_id(one, other):
    def shown(answer):
        names = sorted(name.lower() for name, _ in answer.headers)
        return answer.status, names, {**answer.json, "request_id": ""}

    return shown(one) == shown(other)


def same_as_unknown(run, expected):
    assert expected == "unknown extension"
    environ = {**run.environ(), "PATH_INFO": "/api/ext/no.such/hello"}
    return same_but_for_id(run.answer, send(run.site.app, environ))


def heads_alike(run, _):
    def shown(answer):
        return sorted(pair for pair in answer.headers if pair[0] != "X-Request-Id")

    return shown(run.answer) == shown(send(run.site.app, run.environ("GET")))


def next_is_ok(run, _):
    return run.site.file().status == 200 and run.site.call().status == 200


def builds_urls(run, prefix):
    url = run.site.gateway.ui_url(EXTENSION, "/", run.environ())
    return url.startswith(prefix)


def upstream_hears(run, expected):
    """The same request, once more, with the files on a real remote server."""
    heard = []

    def respond(handler):
        heard.append({name.lower(): value for name, value in handler.headers.items()})
        answer_with(handler, FILES["ui/index.html"])

    with http_server(respond) as base, Site(run.folder / "remote", backend=Remote) as site:
        site.backend.base = base
        assert send(site.app, run.environ()).status == 200
    return len(heard) == 1 and expected.items() <= heard[0].items()


# Every way in which the corpus says what is right; a key without a row fails its case.
CHECKS: dict[str, Callable[[Run, object], object]] = {
    "status": has_status,
    "status_not": lambda run, status: run.answer.status != status,
    "never_500": lambda run, _: run.answer.status != 500,
    "headers_present": lambda run, names: all(run.answer.header(name) for name in names),
    "headers_absent": lambda run, names: not any(run.answer.header(name) for name in names),
    "headers_equal": lambda run, pairs: all(run.answer.header(n) == v for n, v in pairs.items()),
    "headers_not_contain": lambda run, pairs: all(
        text not in (run.answer.header(name) or "") for name, text in pairs.items()
    ),
    "headers_contain": lambda run, pairs: all(
        text in run.answer.header(name) for name, text in pairs.items()
    ),
    "headers_same_as_get": heads_alike,
    "acao_not": lambda run, values: run.answer.header("access-control-allow-origin") not in values,
    "body_len": lambda run, length: len(run.answer.body) == length,
    "body_len_if_206": lambda run, size: run.answer.status != 206 or len(run.answer.body) == size,
    "max_body": lambda run, _: len(run.answer.body) <= len(FILES["ui/index.html"]),
    "body_keys": lambda run, keys: list(run.answer.json) == keys,
    "body_not_contains": lambda run, texts: not any(t.encode() in run.answer.body for t in texts),
    "same_as": same_as_unknown,
    "upstream_called": lambda run, called: bool(run.asked) is called,
    "upstream_path_not": lambda run, path: all(a.path != path[1:] for a in run.asked),
    "upstream_has_header": upstream_hears,
    "upstream_bytes_not_contain": lambda run, texts: (
        not any(text in json.dumps(run.envelope) for text in texts)
    ),
    "host_app_called": lambda run, called: run.answer.from_host is called,
    "environ_identity": lambda run, _: run.answer.environ["test.host_called"] is run.answer.environ,
    "environ_keys_added": adds_only,
    "envelope": lambda run, fields: all(dig(run.envelope, p) == v for p, v in fields.items()),
    "envelope_headers": lambda run, pairs: pairs.items() <= run.envelope["http"]["headers"].items(),
    "envelope_headers_absent": lambda run, names: (
        not (set(names) & set(run.envelope["http"]["headers"]))
    ),
    "envelope_valid_json": lambda run, _: run.answer.status != 200 or run.envelope,
    "envelope_body": has_body,
    "envelope_body_in": has_body_among,
    "envelope_body_if_200": lambda run, body: has_body_among(run, [body]),
    "tenant_used": is_own_tenant,
    "generated_urls_prefix": builds_urls,
    "input_read": lambda run, size: run.answer.input.consumed == size,
    "input_read_max": lambda run, size: run.answer.input.consumed <= size,
    "log_lines": lambda run, count: len(run.lines) == count,
    "log_lines_max": lambda run, count: len(run.lines) <= count,
    "log_bytes_max": lambda run, size: run.records and len(run.logged) <= size,
    "log_not_contains": lambda run, texts: run.records and not any(t in run.logged for t in texts),
    # Ten times the corpus's figure: a shared machine stalls, and what is looked for is not linear.
    "max_seconds": lambda run, seconds: run.seconds < 10 * seconds,
    "next_request_ok": next_is_ok,
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_request_is_answered_as_the_corpus_says(case, tmp_path, caplog):
    run = Run(case, tmp_path, caplog)
    with run.site:
        run.start()
        for key, expected in case["expect"].items():
            assert CHECKS[key](run, expected), (key, expected, run.answer, run.asked, run.lines)


def test_every_expectation_is_used_by_a_case():
    used = {key for param in CASES for key in param.values[0]["expect"]}
    assert used == set(CHECKS)
