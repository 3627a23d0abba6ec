"""A real runner whose bundles are elsewhere, and the gateway's client that asks it."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from far_stores import send
from servers import runner
from wasmtime import wat2wasm

from runnerwsgi import ExecuteRequest
from runnerwsgi.bundles import content_hash
from runnerwsgi.client import RunnerClient
from runnerwsgi.protocol import Bundle, Context, HttpRequest, Limits
from runnerwsgi.secrets import Secret
from runnerwsgi.service_token import ServiceToken
from runnerwsgi.tar import write
from runnerwsgi.wit import ECHO
from runnerwsgi.zstd import compress

TOKEN = "0123456789abcdef" * 3


@pytest.fixture
def echo():
    """The bundle of a component that says what it was asked, and of a page."""
    manifest = {"name": "demo.echo", "version": "1.0.0", "runtime": "wasm@1"}
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        "dist/main.wasm": bytes(wat2wasm(ECHO.read_text())),
        "ui/index.html": b"<p>hello</p>",
    }
    data = compress(write(files))
    return Bundle("acme", "demo.echo", content_hash(data)), data


@pytest.fixture
def ask(tmp_path):
    """Start a runner on a store: ``with ask(url) as (server, client)``."""

    @contextmanager
    def ask(url):
        own_code = {"RUNNER_WASM_CACHE_DIR": str(tmp_path / "code")}
        with (
            runner(tmp_path / "home", **_env(url), **own_code) as server,
            closing(RunnerClient(server.url, ServiceToken(Secret(TOKEN)))) as client,
        ):
            yield server, client

    return ask


def _env(url):
    return {
        "RUNNER_BUNDLE_STORE": url,
        "RUNNER_ALLOW_INSECURE": "1",
        "RUNNER_SERVICE_TOKEN": TOKEN,
    }


def call(bundle, timeout_ms=10_000, key=1):
    return ExecuteRequest(
        Context(bundle.tenant_id, bundle.extension_id, bundle.content_hash),
        HttpRequest("GET", "/things"),
        Limits(timeout_ms, 64),
        idempotency_key=f"acme:demo.echo:{key}",
    )


def test_the_first_call_fetches_its_bundle(url, open_at, ask, echo):
    bundle, data = echo
    open_at(url, "far").push(bundle, data)
    with ask(url) as (_, client):
        assert client.execute(call(bundle)).outcome == "ok"
        assert client.probe().checks["store"] == url


def test_calls_at_once_fetch_once(web, open_at, ask, echo):
    bundle, data = echo
    web.fault = lambda handler: (time.sleep(0.3), send(handler, 200, data))
    with ask(web.url) as (_, client), ThreadPoolExecutor(6) as pool:
        each = (call(bundle, key=number) for number in range(6))
        answers = [answer.outcome for answer in pool.map(client.execute, each)]
    assert answers == ["ok"] * 6
    assert len(web.asked) == 1


def test_a_warm_up_fetches_and_compiles(web, open_at, ask, echo):
    bundle, data = echo
    open_at(web.url, "far").push(bundle, data)
    with ask(web.url) as (_, client):
        assert client.warm_up(bundle, 30.0).compiled
        web.asked.clear()
        assert client.execute(call(bundle)).outcome == "ok"
    assert web.asked == []


def test_a_page_is_fetched_for_its_tenant_and_then_for_everybody(web, open_at, ask, echo):
    bundle, data = echo
    open_at(web.url, "far").push(bundle, data)
    path = f"/ext-ui/demo.echo/{bundle.content_hash}/index.html"
    with ask(web.url) as (server, _):
        assert server.send(path=path)[0] == 404  # nobody has it for the tenant `default`
        assert server.send(path=path, X_Tenant_Id="acme")[2] == b"<p>hello</p>"
        assert server.send(path=path)[2] == b"<p>hello</p>"


def test_a_store_that_is_away_costs_its_bundles_and_nothing_else(web, open_at, ask, echo):
    bundle, data = echo
    web.fault = lambda handler: send(handler, 503)
    with ask(web.url) as (server, client):
        failed = client.execute(call(bundle))
        assert failed.outcome == "not_found"
        assert f"{web.url} cannot be read: 503" in failed.error
        page = f"/ext-ui/demo.echo/{bundle.content_hash}/index.html"
        assert server.send(path=page, X_Tenant_Id="acme")[0] == 502
        assert server.send(path="/health/readiness")[0] == 200
        web.fault = lambda handler: send(handler, 200, data)
        time.sleep(1.1)
        assert client.execute(call(bundle)).outcome == "ok"


def test_a_runner_with_a_store_that_cannot_be_does_not_start(tmp_path):
    with pytest.raises(AssertionError, match="RUNNER_BUNDLE_STORE is no URL of a bucket"):
        runner(tmp_path, RUNNER_BUNDLE_STORE="s3://").__enter__()
