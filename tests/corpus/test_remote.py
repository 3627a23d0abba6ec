"""The corpus's hostile runners: exact bytes on a connection of the real `docker` backend."""

import logging
import time
import tracemalloc

import pytest
from corpus.cases import due
from corpus.connections import connecting
from corpus.remote import TOKEN, remote_site
from support import EXTENSION

from runnerwsgi import Principal
from runnerwsgi.logs import JsonFormatter

DEADLINE = 2.0
MAX_ASSET = 4 * 1024 * 1024
TEXT = logging.Formatter("%(levelname)s %(name)s: %(message)s")


def endless(talk):
    talk.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        talk.send(bytes(65536))


def long_header(size):
    return b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * size + b"\r\nContent-Length: 5\r\n\r\nhello"


class Run:
    """One case: what was answered, and afterwards everything that can be asked of it."""

    def __init__(self, case, site, fake, caplog):
        self.case, self.site, self.fake, self.caplog = case, site, fake, caplog
        fake.answer = self._answer()
        # Where a connection must not be used again, it is left open to be used.
        fake.stays = "connection_reused" in case["expect"]
        self.path = self.fill(case["input"]["request"]["path"])
        tracemalloc.start()
        started = time.monotonic()
        with caplog.at_level(logging.DEBUG, "runnerwsgi"), connecting() as self.connected:
            self.answer = self.ask(self.path)
        self.seconds = time.monotonic() - started
        self.growth = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        self.first = list(fake.heard)

    def _answer(self):
        match self.case["input"].get("gen", {}):
            case {"endless_body": True}:
                return endless
            case {"upstream_header_bytes": size}:
                return long_header(size)
        raw = self.case["input"]["upstream_raw"].replace("{TOKEN}", TOKEN)
        return raw.encode("latin-1")

    def fill(self, text):
        return text.replace("{ASSET}", self.site.ui).replace("{EXEC}", f"/api/ext/{EXTENSION}/")

    def ask(self, path):
        """Whether a file or a call, as the application's own page asks for it."""
        return self.site.send(path=path, HTTP_SEC_FETCH_SITE="same-origin")

    @property
    def logged(self):
        records = [r for r in self.caplog.records if r.name.startswith("runnerwsgi")]
        return "\n".join(f"{TEXT.format(r)}\n{JsonFormatter().format(r)}" for r in records)

    def header_is(self, name, value):
        return self.answer.header(name) == value


def is_not_kept(run, cached):
    assert cached is False
    again = run.ask(run.path)
    return len(run.fake.heard) == len(run.first) + 1 and again.status == 200


def is_not_reused(run, reused):
    assert reused is False
    assert run.ask(run.fill("{ASSET}app.js")).status == 200
    return run.fake.heard[-1][1] != run.first[-1][1]


def says_misconfigured(run, word):
    run.site.principal = Principal("t1", "admin", roles=frozenset({"admin"}))
    health = run.site.send(path="/runner/healthz")
    return health.status == 503 and word in str(health.json["checks"])


CHECKS = {
    "status": lambda run, s: run.answer.status in (s if isinstance(s, list) else [s]),
    "headers_not": lambda run, pairs: not any(run.header_is(*pair) for pair in pairs.items()),
    "headers_equal": lambda run, pairs: all(run.header_is(*pair) for pair in pairs.items()),
    "headers_absent": lambda run, names: not any(run.answer.header(name) for name in names),
    "body_not_contains": lambda run, texts: (
        not any(text.replace("{TOKEN}", TOKEN).encode() in run.answer.body for text in texts)
    ),
    "log_not_contains": lambda run, texts: (
        run.logged and not any(text.replace("{TOKEN}", TOKEN) in run.logged for text in texts)
    ),
    "cached": is_not_kept,
    "connection_reused": is_not_reused,
    "next_asset_not": lambda run, text: run.ask(run.fill("{ASSET}app.js")).body != text.encode(),
    # There are no metrics: the log says it.
    "metric": lambda run, name: (
        name == "asset_digest_mismatch" and "not those that were installed" in run.logged
    ),
    "if_200": lambda run, _: run.answer.status != 200 or run.answer.body == b"hello",
    "upstream_requests": lambda run, count: len(run.first) == count,
    "no_connect_to": lambda run, places: (
        run.connected and not any(place in to for to in run.connected for place in places)
    ),
    "max_seconds": lambda run, limit: run.seconds < (DEADLINE + 1 if limit == "deadline+1" else 5),
    "max_rss_growth_mib": lambda run, mib: run.growth < mib,
    "health": says_misconfigured,
}


@pytest.fixture
def remote(tmp_path):
    limits = {"timeout_ms": int(DEADLINE * 1000), "max_asset_bytes": MAX_ASSET}
    with remote_site(tmp_path, **limits) as (site, fake):
        yield site, fake


@pytest.mark.parametrize("case", due("test_remote"))
def test_a_hostile_runner_is_answered_as_the_corpus_says(case, remote, caplog):
    run = Run(case, *remote, caplog)
    assert run.first  # it was asked
    for key, expected in case["expect"].items():
        assert CHECKS[key](run, expected), (key, expected, run.answer, run.fake.heard, run.logged)


def test_every_expectation_is_used_by_a_case():
    assert {key for row in due("test_remote") for key in row.values[0]["expect"]} == set(CHECKS)


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
def test_a_transport_status_is_not_the_extensions(remote, status):
    site, fake = remote
    fake.answer = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status
    answer = site.call()
    assert answer.status == (413 if status == 413 else 502)
    assert answer.code == ("body-too-large" if status == 413 else "bad-runner-response")
