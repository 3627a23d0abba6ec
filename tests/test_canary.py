"""The canary: what is shipped is what its source says, and a backend really executes it."""

from pathlib import Path

import pytest
import wasmtime
from runnerwsgi_wasm.backend import WasmBackend
from runnerwsgi_wasm.process import Options
from support import Recorder

import runnerwsgi.canary
from runnerwsgi import ExecuteResponse, Gateway, canary
from runnerwsgi.bundles import BundleStore, read_bundle
from runnerwsgi.errors import (
    BadRunnerResponse,
    BundleUnavailable,
    GuestTimeout,
    Overloaded,
    RunnerError,
)

SOURCE = Path(runnerwsgi.canary.__file__).with_name("canary.wat")


@pytest.fixture
def store(tmp_path):
    return BundleStore(tmp_path / "bundles")


@pytest.fixture
def wasm(store, tmp_path):
    with Gateway(WasmBackend(store, Options(tmp_path / "cache"))) as gateway:
        yield gateway


def test_the_bundle_is_its_source_compiled():
    bundle = read_bundle(canary.archive(), canary.CONTENT_HASH)
    assert bundle.manifest.name == canary.BUNDLE.extension_id
    assert bundle.files["dist/main.wasm"] == wasmtime.wat2wasm(SOURCE.read_text("utf-8"))


def test_a_backend_executes_it(wasm, store):
    store.add(canary.archive())
    assert wasm.probe() is True


class Answering(Recorder):
    def __init__(self, answer):
        super().__init__(None)
        self._answer = answer

    def answer(self, request):
        if isinstance(self._answer, RunnerError):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    "answer",
    [BundleUnavailable("none"), ExecuteResponse(502, outcome="not_found", error="none")],
    ids=["an error", "an outcome"],
)
def test_a_runner_without_a_canary_was_reached(answer):
    assert Gateway(Answering(answer)).probe() is False


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(Overloaded(), Overloaded, id="the runner refuses"),
        pytest.param(ExecuteResponse(504, outcome="timeout"), GuestTimeout, id="it takes too long"),
        pytest.param(ExecuteResponse(200, body=b"hello"), BadRunnerResponse, id="another body"),
        pytest.param(ExecuteResponse(200), BadRunnerResponse, id="no body"),
    ],
)
def test_any_other_answer_is_told(answer, error):
    with pytest.raises(error):
        Gateway(Answering(answer)).probe()


def test_another_status_is_told():
    class Refusing(Recorder):
        def answer(self, request):
            return ExecuteResponse(404, body=request.http.body)

    with pytest.raises(BadRunnerResponse, match="404"):
        Gateway(Refusing(None)).probe()


def test_every_probe_has_a_nonce_of_its_own():
    backend = Recorder(None)
    gateway = Gateway(backend)
    assert gateway.probe()
    assert gateway.probe(timeout_ms=700)
    first, second = backend.requests
    assert first.http.body != second.http.body
    assert first.idempotency_key != second.idempotency_key
    assert second.limits.timeout_ms == 700
