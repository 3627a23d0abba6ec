"""The façade: what a plugin must be, and whose fault it was."""

import pytest
from support import write_plugin

from runnerwsgi import (
    ExecuteRequest,
    ExecuteResponse,
    Gateway,
    Health,
    Principal,
    UiAsset,
    hookimpl,
)
from runnerwsgi.errors import (
    BadRunnerResponse,
    ConfigurationError,
    Forbidden,
    GuestTrap,
    IdentityUnavailable,
)
from runnerwsgi.protocol import Bundle, Context, Finding, HttpRequest, Limits, WarmUp

HASH = "sha256:" + "0" * 64
REQUEST = ExecuteRequest(Context("t", "e", HASH), HttpRequest("GET", "/"), Limits(1000))
ASSET = UiAsset("t", "e", HASH, "index.html")


class Backend:
    """A backend that answers what it was made with; an exception is raised."""

    def __init__(self, response=None, url="https://cdn.test/x", health=None):
        self.answers = {
            "execute": response or ExecuteResponse(200),
            "url": url,
            "health": health or Health("ok"),
        }

    def answer(self, name):
        value = self.answers[name]
        if isinstance(value, Exception):
            raise value
        return value

    @hookimpl
    def runner_execute(self, request):
        return self.answer("execute")

    @hookimpl
    def runner_resolve_ui_url(self, asset):
        return self.answer("url")

    @hookimpl
    def runner_health(self):
        return self.answer("health")


class Warm(Backend):
    @hookimpl
    def runner_warm_up(self, bundle):
        return WarmUp(compiled=True, ms=1)


class Observer:
    def __init__(self, name="observer"):
        self.name = name
        self.seen = []

    @hookimpl(wrapper=True)
    def runner_execute(self, request):
        response = yield
        self.seen.append((self.name, response.status))
        return response


def make(**methods):
    """A plugin object with these hooks."""
    return type("Extra", (), {name: hookimpl(method) for name, method in methods.items()})()


def refuses(match, *plugins, **more):
    with pytest.raises(ConfigurationError, match=match):
        Gateway(*plugins, **more)


def test_a_backend_is_asked_through_typed_methods():
    with Gateway(Backend()) as gateway:
        assert gateway.execute(REQUEST) == ExecuteResponse(200)
        assert gateway.resolve_ui_url(ASSET) == "https://cdn.test/x"
        assert gateway.health() == Health("ok")
        assert gateway.warm_up(Bundle("t", "e", HASH)) == WarmUp(compiled=False, ms=0)
        assert gateway.backend_name == "backend"


def test_a_backend_that_prepares_is_asked_to():
    class Preparing(Backend):
        @hookimpl
        def runner_warm_up(self, bundle):
            return WarmUp(compiled=bundle.content_hash == HASH, ms=7)

    assert Gateway(Preparing()).warm_up(Bundle("t", "e", HASH)) == WarmUp(compiled=True, ms=7)


def test_observers_wrap_the_backend_in_the_order_they_are_named():
    first, second = Observer("first"), Observer("second")
    first.seen = second.seen
    gateway = Gateway(Backend(), first, second, names=["mine"])
    gateway.execute(REQUEST)
    assert gateway.plugin_names == ("mine", "first", "second")
    assert sorted(first.seen) == [("first", 200), ("second", 200)]


def test_a_class_is_no_plugin():
    refuses(r"Backend is a class; pass an instance: Backend\(\)", Backend)
    refuses("Observer is a class", Backend(), Observer)


def test_a_misspelt_hook_is_told():
    refuses("runner_excute", Backend(), make(runner_excute=lambda self, request: None))


def test_a_misspelt_argument_is_told():
    refuses("req", Backend(), make(runner_authorize=lambda self, req: True))


def test_a_required_hook_that_is_missing_is_told():
    refuses("does not implement runner_execute", make(runner_health=lambda self: Health("ok")))


def test_a_hook_that_is_not_marked_is_told():
    backend = type("Plain", (), {"runner_execute": lambda self, request: None})()
    refuses("@hookimpl is missing", backend)


def test_what_pluggy_says_in_many_lines_is_told_in_one():
    with pytest.raises(ConfigurationError) as caught:
        Gateway(Backend(), make(runner_authorize=lambda self, req: True))
    assert "\n" not in str(caught.value)


def test_a_second_backend_is_no_observer():
    refuses("beside the backend", Backend(), make(runner_health=lambda self: Health("ok")))


def test_one_plugin_twice_is_told():
    observer = Observer()
    refuses("two plugins are called observer", Backend(), observer, observer)


def test_two_providers_of_one_function_are_told():
    def provider(name):
        plugin = make(runner_capabilities=lambda self: {"clients": {"get-client": print}})
        plugin.name = name
        return plugin

    refuses(r"clients\.get-client", Backend(), provider("one"), provider("two"))
    gateway = Gateway(Backend(), provider("one"))
    assert gateway.capabilities == {"clients": {"get-client": print}}


@pytest.mark.parametrize(
    ("provide", "told"),
    [
        pytest.param(lambda self: None, "must return functions", id="nothing"),
        pytest.param(lambda self: {"clients": print}, "must return functions", id="no interface"),
        pytest.param(lambda self: {"clients": {"get-client": 1}}, "must return", id="no function"),
        pytest.param(lambda self: 1 / 0, "raised ZeroDivisionError", id="it raises"),
    ],
)
def test_capabilities_of_another_form_are_told_with_the_plugins_name(provide, told):
    refuses(f"extra: runner_capabilities {told}", Backend(), make(runner_capabilities=provide))


def test_a_plugin_that_misspells_a_guests_function_is_named():
    tables = {"scheduler": {"list-schedule": print}}
    refuses(
        "extra provides scheduler.list-schedule, .* list-schedules",
        Backend(),
        make(runner_capabilities=lambda self: tables),
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param({"status": 200}, "returned dict; expected ExecuteResponse", id="a dict"),
        pytest.param(ExecuteResponse("200"), "status of type str", id="a status of text"),
        pytest.param(ExecuteResponse(200, body="x"), "body of type str", id="a body of text"),
        pytest.param(
            ExecuteResponse(200, {"a": "b"}), "headers of type dict", id="a dict of headers"
        ),
        pytest.param(ExecuteResponse(200, (("a", 1),)), "two texts", id="a number header"),
        pytest.param(ExecuteResponse(200, outcome="fine"), "use one of ok", id="an odd outcome"),
        pytest.param(ZeroDivisionError("x"), "runner_execute raised ZeroDivision", id="it raises"),
    ],
)
def test_a_backends_mistake_is_a_bad_answer_that_names_it(answer, told):
    with pytest.raises(BadRunnerResponse, match="mine: ") as caught:
        Gateway(Backend(answer), names=["mine"]).execute(REQUEST)
    assert told in str(caught.value)
    assert "mine" not in caught.value.detail


def test_an_observer_that_forgets_the_answer_is_named_beside_the_backend():
    class Forgetful:
        name = "forgetful"

        @hookimpl(wrapper=True)
        def runner_execute(self, request):
            yield

    with pytest.raises(BadRunnerResponse, match=r"mine or forgetful: .* returned NoneType"):
        Gateway(Backend(), Forgetful(), names=["mine"]).execute(REQUEST)


def test_a_url_that_is_none_is_a_bad_answer():
    with pytest.raises(BadRunnerResponse, match="returned bytes; expected str"):
        Gateway(Backend(url=b"https://x")).resolve_ui_url(ASSET)


def test_an_error_of_ours_is_passed_on_as_it_is():
    error = GuestTrap("unreachable")
    with pytest.raises(GuestTrap) as caught:
        Gateway(Backend(error)).execute(REQUEST)
    assert caught.value is error


def test_the_observer_that_raised_is_the_culprit():
    class Faulty:
        name = "faulty"

        @hookimpl(wrapper=True)
        def runner_execute(self, request):
            yield
            raise KeyError("x")

    with pytest.raises(BadRunnerResponse, match="faulty: runner_execute raised KeyError"):
        Gateway(Backend(), Observer(), Faulty()).execute(REQUEST)


@pytest.mark.parametrize("health", [RuntimeError("disk gone"), "fine"], ids=["raises", "a text"])
def test_a_health_hook_that_fails_is_an_answer_itself(health):
    found = Gateway(Backend(health=health)).health()
    assert found.status == "unavailable"
    assert "runner_health" in found.checks["backend"]


def authorizing(*answers):
    def answering(answer):
        def authorize(self, principal, install, method, path):
            if isinstance(answer, Exception):
                raise answer
            return answer

        plugin = make(runner_authorize=authorize)
        plugin.name = f"says-{answer!r}"
        return plugin

    gateway = Gateway(Backend(), *map(answering, answers))
    gateway.authorize(Principal("t", "u"), None, "GET", "/")


@pytest.mark.parametrize("answers", [(), (True,), (None,), (None, True)], ids=str)
def test_no_objection_is_none(answers):
    authorizing(*answers)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ((False,), Forbidden),
        ((True, False), Forbidden),
        ((False, True), Forbidden),
        ((None, False), Forbidden),
        ((True, RuntimeError("x")), IdentityUnavailable),
        ((0,), IdentityUnavailable),
        (("no",), IdentityUnavailable),
    ],
    ids=str,
)
def test_one_denial_denies_and_doubt_lets_nobody_in(answers, error):
    with pytest.raises(error):
        authorizing(*answers)


def test_metadata_is_told_by_plugin():
    plugin = make(runner_metadata=lambda self: {"version": "1"})
    plugin.name = "versioned"
    assert Gateway(Backend(), plugin).metadata() == {"versioned": {"version": "1"}}


class TestFindings:
    GOOD = Finding("ok", "door", "it opens")

    def of(self, *looks):
        """What is found by a plugin for each function."""
        plugins = [make(runner_findings=lambda self, look=look: look()) for look in looks]
        names = ["backend", *(f"plugin-{number}" for number in range(len(plugins)))]
        with Gateway(Backend(), *plugins, names=names) as gateway:
            return gateway.findings()

    def test_those_of_every_plugin_are_told(self):
        bad = Finding("fail", "window", "it is broken", "mend it.")
        found = self.of(lambda: [self.GOOD], lambda: iter((bad,)), lambda: ())
        assert sorted(found, key=lambda one: one.what) == [self.GOOD, bad]

    @pytest.mark.parametrize(
        ("look", "words"),
        [
            (lambda: 1 / 0, "raised ZeroDivisionError: division by zero"),
            (lambda: ["all is well"], "must return Findings"),
            (lambda: None, "raised TypeError"),
        ],
        ids=["one that raises", "one that gives texts", "one that gives nothing"],
    )
    def test_a_plugin_that_cannot_look_hides_no_other(self, look, words):
        broken, good = sorted(self.of(look, lambda: [self.GOOD]), key=lambda one: one.state)
        assert (broken.state, broken.what, good) == ("fail", "plugin-0", self.GOOD)
        assert words in broken.found

    def test_they_are_those_of_the_gateway_in_use(self):
        good = self.GOOD
        current = Gateway(Backend(), make(runner_findings=lambda self: [good]))
        old = Gateway(Backend())
        old.hand_over(lambda: current)
        assert old.findings() == [self.GOOD]


def test_closing_twice_closes_once():
    closed = []
    gateway = Gateway(Backend(), make(runner_close=lambda self: closed.append(1)))
    gateway.close()
    gateway.close()
    assert closed == [1]


def test_what_is_asked_of_a_gateway_that_handed_over_is_its_successors():
    more = make(
        runner_authorize=lambda self, principal, install, method, path: False,
        runner_metadata=lambda self: {"version": "2"},
    )
    old = Gateway(Backend(health=Health("degraded")))
    current = Gateway(Warm(ExecuteResponse(201), url="https://new.test/"), more)
    old.hand_over(lambda: current)
    assert old.execute(REQUEST).status == 201
    assert old.resolve_ui_url(ASSET) == "https://new.test/"
    assert old.health() == Health("ok")
    assert old.warm_up(Bundle("t", "e", HASH)).compiled
    assert {"version": "2"} in old.metadata().values()
    with pytest.raises(Forbidden):
        old.authorize(Principal("t", "u"), None, "GET", "/")


def test_a_public_url_needs_a_middleware():
    with pytest.raises(ConfigurationError, match="RunnerMiddleware"):
        Gateway(Backend()).ui_url("acme.hello")


def test_every_fault_of_an_environment_is_told_at_once():
    env = {"RUNNER_TIMEOUT_MS": "x", "RUNNER_BACKEND": "no-such", "RUNNER_PLUGINS": "nor-such"}
    with pytest.raises(ConfigurationError) as caught:
        Gateway.from_env(env)
    told = ["RUNNER_TIMEOUT_MS", "RUNNER_BACKEND=no-such", "RUNNER_PLUGINS=nor-such"]
    assert [fault[: len(t)] for fault, t in zip(caught.value.faults, told, strict=True)] == told


def test_an_unknown_variable_is_warned_about(caplog, tmp_path):
    env = {"RUNNER_BACKEND": "wasm", "RUNNER_HOME": str(tmp_path), "RUNNER_TIMEOUTMS": "1"}
    Gateway.from_env(env).close()
    assert "Did you mean RUNNER_TIMEOUT_MS?" in caplog.text


def test_a_plugin_whose_metadata_fails_does_not_hide_the_others():
    class Broken:
        name = "broken"

        @hookimpl
        def runner_metadata(self):
            raise ValueError("no")

    class Fine:
        name = "fine"

        @hookimpl
        def runner_metadata(self):
            return {"version": "1"}

    found = Gateway(Backend(), Broken(), Fine()).metadata()
    assert found["fine"] == {"version": "1"}
    assert found["broken"] == {"error": "runner_metadata raised ValueError: no"}


def test_a_plugin_that_does_not_close_keeps_no_other_from_closing(caplog):
    closed = []
    first = make(runner_close=lambda self: closed.append("first"))
    first.name = "first"
    last = make(runner_close=lambda self: 1 / 0)
    last.name = "last"
    Gateway(Backend(), first, last).close()
    assert closed == ["first"]
    assert "last: runner_close failed" in caplog.text


def test_plugins_of_the_environment_go_by_their_entry_points(tmp_path, monkeypatch):
    source = "class Plugin:\n    pass\n\ndef plugin(env):\n    return Plugin()\n"
    for name in ("audit", "metrics"):
        write_plugin(tmp_path, name, source)
    monkeypatch.syspath_prepend(str(tmp_path))
    env = {
        "RUNNER_BACKEND": "wasm",
        "RUNNER_HOME": str(tmp_path),
        "RUNNER_PLUGINS": "audit,metrics",
    }
    with Gateway.from_env(env) as gateway:
        assert gateway.plugin_names == ("wasm", "audit", "metrics")
