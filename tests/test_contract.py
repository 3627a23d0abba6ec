"""The contract kit tells a good backend from a bad one."""

import json
import time
from dataclasses import replace
from urllib.parse import quote

import pytest
import runnerwsgi_wasm
from support import pack_files
from wasmtime import wat2wasm

from runnerwsgi import ExecuteRequest, ExecuteResponse, Health, Settings, hookimpl
from runnerwsgi.bundles import BundleStore
from runnerwsgi.errors import BundleUnavailable
from runnerwsgi.gateway import Gateway
from runnerwsgi.protocol import Context, Finding, HttpRequest, Limits, LogLine, WarmUp
from runnerwsgi.testing import BackendContract
from runnerwsgi.wit import ECHO

HASH = "sha256:" + "a" * 64


def request(body=None, path="/"):
    return ExecuteRequest(
        Context("acme", "demo.echo", HASH), HttpRequest("POST", path, body=body), Limits(5000)
    )


class Good:
    """The smallest backend that keeps the contract, with one bundle."""

    @hookimpl
    def runner_execute(self, request):
        if request.context.content_hash != HASH:
            return ExecuteResponse(0, outcome="not_found", error="no such bundle")
        if request.http.path == "/endless":
            time.sleep(request.limits.timeout_ms / 1000)
            return ExecuteResponse(0, outcome="timeout")
        return ExecuteResponse(200, (("x-tab", "a\tb"),), request.http.body)

    @hookimpl
    def runner_resolve_ui_url(self, asset):
        return f"http://127.0.0.1:1/{asset.content_hash}/{quote(asset.path)}"

    @hookimpl
    def runner_health(self):
        return Health("ok", {"engine": "ready"})

    @hookimpl
    def runner_warm_up(self, bundle):
        if bundle.content_hash != HASH:
            raise BundleUnavailable("no such bundle")
        return WarmUp(compiled=False, ms=0)

    @hookimpl
    def runner_close(self):
        pass


class Kit(BackendContract):
    margin = 0.3

    def make_backend(self):
        return Good()

    def sample_request(self):
        return request()

    def echo_request(self, body):
        return request(body)

    def endless_request(self):
        return request(path="/endless")


class TestGood(Kit):
    """A backend that does everything right passes everything."""


def answering(**changes):
    """A backend whose good answers are changed in one field."""

    class Changed(Good):
        @hookimpl
        def runner_execute(self, request):
            return replace(super().runner_execute(request), **changes)

    return Changed()


def with_hook(name, function):
    """A good backend with one hook replaced."""
    return type("Changed", (Good,), {name: hookimpl(function)})()


def raising(exc):
    def hook(self, **_):
        raise exc

    return hook


def execute_raising(exc):
    def runner_execute(self, request):
        raise exc

    return with_hook("runner_execute", runner_execute)


class Misspelt(Good):
    @hookimpl
    def runner_excute(self, request):
        return None


class Unmarked(Good):
    def runner_metadata(self):
        return {}


class NotJson(Good):
    @hookimpl
    def runner_metadata(self):
        return {"home": {1, 2}}


class Shrugging(Good):
    @hookimpl
    def runner_findings(self):
        return [Finding("warn", "door", "it is locked")]


class Chatting(Good):
    @hookimpl
    def runner_findings(self):
        return ["the door is locked"]


class Mixing(Good):
    """Keeps the call's body on the plugin object, where another thread overwrites it."""

    @hookimpl
    def runner_execute(self, request):
        self.body = request.http.body
        time.sleep(0.02)
        return ExecuteResponse(200, (), self.body)


class Late(Good):
    @hookimpl
    def runner_execute(self, request):
        time.sleep(0.4)
        return ExecuteResponse(200)


class SlowHealth(Good):
    @hookimpl
    def runner_health(self):
        time.sleep(1.1)
        return Health("ok")


class ClosesOnce(Good):
    closed = False

    @hookimpl
    def runner_close(self):
        if self.closed:
            raise ValueError("already closed")
        self.closed = True


class RunsAnything(Good):
    @hookimpl
    def runner_execute(self, request):
        return ExecuteResponse(200)


def ui_url(answer):
    return with_hook("runner_resolve_ui_url", lambda self, asset: answer(asset))


def health(answer):
    return with_hook("runner_health", lambda self: answer)


BAD = [
    pytest.param("it_is_an_instance_with_the_required_hooks", Good, "is a class", id="a class"),
    pytest.param(
        "it_is_an_instance_with_the_required_hooks",
        type("Half", (), {"runner_health": Good.runner_health})(),
        "does not implement runner_execute",
        id="a required hook missing",
    ),
    pytest.param("its_hooks_are_marked_and_known", Misspelt(), "is no hook", id="a misspelt hook"),
    pytest.param(
        "its_hooks_are_marked_and_known", Unmarked(), "above it", id="a hook that is not marked"
    ),
    pytest.param("it_describes_itself_in_json", NotJson(), "JSON", id="metadata that is not JSON"),
    pytest.param("what_it_finds_comes_with_what_to_do", Shrugging(), "a fix", id="no fix"),
    pytest.param(
        "what_it_finds_comes_with_what_to_do", Chatting(), "return Findings", id="a text as finding"
    ),
    pytest.param("it_executes", answering(status=404), "answered with 404", id="not 200"),
    pytest.param("it_executes", answering(status="200"), "from 200 to 599", id="a text as status"),
    pytest.param("it_executes", answering(status=99), "from 200 to 599", id="an odd status"),
    pytest.param("it_executes", answering(outcome="fine"), "use one of ok", id="an odd outcome"),
    pytest.param(
        "it_executes", answering(outcome="guest_trap"), "ended as guest_trap", id="a trap"
    ),
    pytest.param("it_executes", answering(body="text"), "use bytes", id="a text as body"),
    pytest.param("it_executes", answering(headers={"a": "b"}), "tuple of", id="headers as a dict"),
    pytest.param("it_executes", answering(headers=(("a", 1),)), "two texts", id="a number header"),
    pytest.param("it_executes", answering(headers=(("a b", ""),)), "token", id="a blank in a name"),
    pytest.param(
        "it_executes", answering(headers=(("a", "b\r\nc: d"),)), "control", id="header injection"
    ),
    pytest.param("it_executes", answering(logs=("line",)), "LogLine", id="logs of plain text"),
    pytest.param("it_executes", answering(timings={"run": -1}), "milliseconds", id="negative time"),
    pytest.param("threads_get_their_own_answers", Mixing(), "another thread", id="shared state"),
    pytest.param("a_short_limit_is_kept", Late(), "took 0.4 s", id="a limit that is not kept"),
    pytest.param("an_endless_handler_is_ended", answering(outcome="ok"), "as ok", id="endless"),
    pytest.param("an_unknown_bundle_is_told_as_such", RunsAnything(), "was executed", id="any"),
    pytest.param(
        "an_unknown_bundle_is_told_as_such",
        execute_raising(KeyError("sha256")),
        "raised KeyError",
        id="a foreign exception",
    ),
    pytest.param(
        "warming_up_says_what_it_did",
        with_hook("runner_warm_up", lambda self, bundle: True),
        "return WarmUp",
        id="warm-up answers a truth value",
    ),
    pytest.param("health_answers_at_once", SlowHealth(), "took 1.1 s", id="slow health"),
    pytest.param(
        "health_answers_at_once",
        with_hook("runner_health", raising(OSError("no route"))),
        "runner_health raised",
        id="health that raises",
    ),
    pytest.param("health_answers_at_once", health("ok"), "returned str", id="health as a text"),
    pytest.param("health_answers_at_once", health(Health("fine")), "'fine'", id="an odd health"),
    pytest.param("health_answers_at_once", health(Health("ok", {"n": 1})), "be a text", id="check"),
    pytest.param("closing_twice_is_harmless", ClosesOnce(), "second runner_close", id="close once"),
]


@pytest.mark.parametrize(("test", "backend", "told"), BAD)
def test_a_bad_backend_is_told_what_to_do(test, backend, told):
    # The tests take a backend or a gateway around it, as pytest's fixtures would give them.
    method = getattr(Kit(), f"test_{test}")
    names = method.__code__.co_varnames[: method.__code__.co_argcount]
    given = Gateway(backend) if "gateway" in names else backend
    with pytest.raises((AssertionError, pytest.fail.Exception), match=told):
        method(given)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        pytest.param(lambda a: f"ftp://h/{HASH}/{a.path}", "begin with http", id="another scheme"),
        pytest.param(lambda a: f"http://h/a b/{HASH}/{a.path}", "quote", id="a blank"),
        pytest.param(lambda a: f"http:///{HASH}/{a.path}", "name a host", id="no host"),
        pytest.param(lambda a: f"file://h/{HASH}/{a.path}", "file names none", id="file and host"),
        pytest.param(lambda a: f"http://u:p@h/{HASH}/{a.path}", "credentials", id="credentials"),
        pytest.param(lambda a: f"http://h/v1/{a.path}", "content hash", id="no hash"),
        pytest.param(lambda a: f"http://h/{HASH}?file={a.path}", "must end with", id="no path"),
    ],
)
def test_a_bad_ui_url_is_told(url, told):
    with pytest.raises(AssertionError, match=told):
        Kit().test_it_says_where_a_ui_file_is(Gateway(ui_url(url)), "index.html")


def test_bytes_that_come_back_as_text_are_told():
    class Decoding(Good):
        @hookimpl
        def runner_execute(self, request):
            return ExecuteResponse(200, (), request.http.body.decode("utf-8", "replace").encode())

    with pytest.raises(AssertionError, match="Pass request"):
        Kit().test_bytes_come_back_unharmed(Gateway(Decoding()), bytes(range(256)))


@pytest.mark.parametrize("method", ["make_backend", "sample_request"])
def test_what_the_author_must_write_is_named(method):
    with pytest.raises(NotImplementedError, match=f"override {method}"):
        getattr(BackendContract(), method)()


def test_log_lines_pass():
    Kit().test_it_executes(Gateway(answering(logs=(LogLine("info", "hello"),))))


def test_what_is_not_looked_at_may_be_of_any_form():
    class Echoing(Kit):
        runs_bundles = False

    Echoing().test_an_unknown_bundle_is_told_as_such(answering(headers={"a": "b"}))


def test_a_backend_is_warm_before_its_time_is_taken():
    class Compiling(Good):
        warm = False

        @hookimpl
        def runner_warm_up(self, bundle):
            self.warm = True
            return WarmUp(compiled=True, ms=1)

        @hookimpl
        def runner_execute(self, request):
            return ExecuteResponse(504, outcome="timeout" if self.warm else "internal")

    Kit().test_an_endless_handler_is_ended(Compiling())


@pytest.fixture(scope="module")
def wasm(tmp_path_factory):
    """An environment whose store has two bundles, and the hashes of these: echo and endless."""
    env = {"RUNNER_HOME": str(tmp_path_factory.mktemp("home")), "RUNNER_BACKEND": "wasm"}
    store = BundleStore.from_url(Settings.from_env(env).bundle_store)
    echo = ECHO.read_text()
    endless = echo.replace("(i32.store16", "(loop $ever (br $ever)) (i32.store16", 1)
    assert endless != echo
    return env, *(
        store.add(bundle(tmp_path_factory.mktemp("source"), wat)).content_hash
        for wat in (echo, endless)
    )


def bundle(folder, wat):
    manifest = {"name": "demo.echo", "version": "1.0.0", "runtime": "wasm@1"}
    files = {"manifest.json": json.dumps(manifest).encode(), "dist/main.wasm": wat2wasm(wat)}
    return pack_files(folder, files)


def with_hash(request, content_hash):
    return replace(request, context=replace(request.context, content_hash=content_hash))


class TestWasm(Kit):
    """The embedded engine keeps it too, with a component written by hand."""

    margin = 1.0

    @pytest.fixture(autouse=True)
    def _home(self, wasm):
        self.env, self.echo, self.endless = wasm

    def make_backend(self):
        return runnerwsgi_wasm.plugin(self.env)

    def sample_request(self):
        return with_hash(request(), self.echo)

    def echo_request(self, body):
        return with_hash(request(body), self.echo)

    def endless_request(self):
        return with_hash(request(), self.endless)
