"""A guest on a runner asks what it would ask at home, and hears the same."""

import base64
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from support import EXTENSION, Site, http_server
from werkzeug.serving import WSGIRequestHandler, make_server

from runnerwsgi import CapabilityError, Principal, Settings, hookimpl
from runnerwsgi.capabilities.remote import AskingBack
from runnerwsgi.errors import UnknownCapability
from runnerwsgi.protocol import Callback, Context, ExecuteRequest, HttpRequest, Limits
from runnerwsgi.secrets import Secret

GRANTS = ("cap:storage.kv", "cap:secrets.get", "cap:ui.proxy", "cap:client.read", "cap:weather")
ADA = Principal(
    "t1",
    "ada",
    roles={"admin", "b"},
    user_name="Ada Ünal",
    client_id="c9",
    additional_fields={"team": "rouge"},
    credential="bearer",
)


class Quiet(WSGIRequestHandler):
    def log_request(self, *args):
        pass


class Provider:
    """A plugin's functions: of an interface of the table, and of one of its own."""

    name = "provider"

    def __init__(self):
        self.calls = []
        self.over = threading.Event()

    @hookimpl
    def runner_capabilities(self):
        return {
            "clients": {"list-clients": self.list_clients, "get-client": self.broken},
            "weather": {"today": self.today, "slowly": self.slowly},
        }

    def list_clients(self, call, query):
        self.calls.append(call)
        if query["search"] == "nobody":
            raise CapabilityError("invalid-input")
        return {"items": [], "total-count": 0, "page": 1, "page-size": query["page-size"]}

    def broken(self, call, client_id):
        raise RuntimeError("canary-77f1")

    def today(self, call, place, data):
        return {"place": place, "data": data, "pair": ("a", 1), "flags": frozenset({"wet"})}

    def slowly(self, call, seconds):
        self.over.wait(seconds)
        return call.timeout


def application(environ, start_response):
    """The host application: says who calls it, as whom, with what."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    principal = environ["runnerwsgi.principal"]
    start_response("404 Not Found" if environ["PATH_INFO"] == "/gone" else "200 OK", [])
    told = (principal == ADA, environ["runnerwsgi.extension"], environ["REQUEST_METHOD"])
    return [json.dumps(told).encode() + body]


@pytest.fixture
def provider():
    return Provider()


@pytest.fixture
def site(tmp_path, provider):
    with Site(tmp_path, plugins=[provider], timeout_ms=20_000) as site:
        site.app.app = application
        site.principal = ADA
        site.app._services.replace(site.app._service(site.gateway))
        site.install(
            grants=GRANTS, secrets={"key": "correct horse"}, routes=["POST /x", "GET /gone"]
        )
        yield site


@contextmanager
def served(app):
    """*app* under a real server of several threads; gives its origin."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=["socket", "origin"])
def base(request, site, tmp_path):
    if request.param == "socket":
        yield f"unix:{tmp_path / 'run'}"
        return
    with served(site.app) as origin:
        yield origin


@pytest.fixture
def asking(tmp_path):
    made = AskingBack(Settings(home=tmp_path / "runner", callback_dir=tmp_path / "run"))
    yield made
    made.close()


def sent(site, base):
    """A call as its runner gets it."""
    assert site.call().status == 200
    request = site.backend.requests[-1]
    callback = request.capabilities.ask_back(base)
    return replace(request, callback=callback, capabilities=None)


@pytest.fixture
def remote(site, base, asking):
    """The capabilities of a call, on its runner."""
    return asking.of(sent(site, base))


def test_storage_is_the_gateways(site, remote):
    entry = {"namespace": "n", "key": "k", "value": bytes(range(256)), "revision": None}
    stored = remote.call("storage", "put", (entry,), 5.0)
    assert stored == {**entry, "revision": 1}
    assert remote.call("storage", "get", ("n", "k"), 5.0) == stored
    assert remote.call("storage", "list-entries", ("n", None), 5.0) == [stored]
    local = site.backend.requests[-1].capabilities
    assert local.call("storage", "get", ("n", "k"), 5.0) == stored
    assert remote.call("storage", "delete", ("n", "k"), 5.0) is None
    with pytest.raises(CapabilityError) as missing:
        remote.call("storage", "get", ("n", "k"), 5.0)
    assert missing.value.case == "missing"


def test_secrets_are_the_installs(remote):
    assert remote.call("secrets", "get", ("key",), 5.0) == "correct horse"
    assert remote.call("secrets", "list-keys", (), 5.0) == ["key"]


def test_the_application_is_called_as_the_caller(remote):
    answer = remote.call("ui-proxy", "call-route", ("POST /x", b"\0\xff"), 5.0)
    assert answer == json.dumps((True, EXTENSION, "POST")).encode() + b"\0\xff"


@pytest.mark.parametrize(("route", "case"), [("/y", "denied"), ("/gone", "route-not-found")])
def test_a_route_that_is_refused_is_the_guests_error(remote, route, case):
    with pytest.raises(CapabilityError) as refused:
        remote.call("ui-proxy", "call-route", (route, None), 5.0)
    assert refused.value.case == case


def test_plugins_answer_and_learn_for_whom(remote, provider, site):
    query = {"search": None, "page-size": 7}
    found = remote.call("clients", "list-clients", (query,), 5.0)
    assert found["page-size"] == 7
    (call,) = provider.calls
    assert (call.tenant_id, call.extension_id, call.principal) == ("t1", EXTENSION, ADA)
    assert call.request_id == site.backend.requests[-1].context.request_id
    assert call.user == ADA.to_user()
    assert 0 < call.timeout <= 20
    with pytest.raises(CapabilityError) as refused:
        remote.call("clients", "list-clients", ({**query, "search": "nobody"},), 5.0)
    assert refused.value.case == "invalid-input"


def test_a_plugins_own_interface_keeps_its_types(remote):
    found = remote.call("weather", "today", ("here", b"\0"), 5.0)
    assert found == {
        "place": "here",
        "data": b"\0",
        "pair": ("a", 1),
        "flags": frozenset({"wet"}),
    }


def test_what_a_plugin_raises_stays_in_the_gateways_log(remote, caplog):
    with pytest.raises(CapabilityError) as failed:
        remote.call("clients", "get-client", ("c1",), 5.0)
    assert failed.value.case == "internal"
    assert "canary-77f1" in caplog.text
    assert "canary-77f1" not in str(failed.value)


def test_who_calls_is_known_on_the_runner(remote):
    assert remote.call("user", "get-user", (), 5.0)["user-name"] == "Ada Ünal"
    assert remote.call("user-v2", "get-user", (), 5.0)["additional-fields"] == [("team", "rouge")]


@pytest.mark.parametrize(
    ("interface", "function", "args"),
    [
        pytest.param("weather", "tomorrow", (), id="a function that nobody has"),
        pytest.param("services", "list-services", ({},), id="an interface that nobody has"),
    ],
)
def test_what_nobody_provides_names_its_capability(site, base, asking, interface, function, args):
    site.install(grants=[*GRANTS, "cap:service.read"])
    remote = asking.of(sent(site, base))
    with pytest.raises(UnknownCapability, match=r"cap:(weather|service\.read)"):
        remote.call(interface, function, args, 5.0)


def test_questions_at_the_same_time_all_have_their_answer(remote):
    """One slot over the application's own server: the others come again."""
    answers = []

    def ask():
        answers.append(remote.call("weather", "slowly", (0.05,), 10.0))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6


def test_a_question_has_the_time_of_its_call(remote, provider):
    started = time.monotonic()
    with pytest.raises(CapabilityError) as failed:
        remote.call("weather", "slowly", (10.0,), 0.3)
    assert time.monotonic() - started < 5
    provider.over.set()
    assert failed.value.case == "internal"


def test_a_grant_that_was_taken_back_is_gone_at_once(site, remote):
    assert remote.call("secrets", "list-keys", (), 5.0) == ["key"]
    site.install(grants=["cap:storage.kv"])
    with pytest.raises(CapabilityError) as refused:
        remote.call("secrets", "get", ("key",), 5.0)
    assert refused.value.case == "denied"
    with pytest.raises(UnknownCapability, match=r"cap:secrets\.get"):
        remote.call("secrets", "list-keys", (), 5.0)
    site.installs.remove("t1", EXTENSION)
    with pytest.raises(CapabilityError, match="cap:storage"):
        remote.call("storage", "get", ("n", "k"), 5.0)


def test_nothing_is_asked_for_without_a_grant(site, base, asking):
    site.install(grants=[])
    request = sent(site, base)
    assert request.callback is None
    with pytest.raises(CapabilityError) as refused:
        asking.of(request).call("storage", "get", ("n", "k"), 5.0)
    assert refused.value.case == "denied"


# A gateway that is none


def request(url=None, **more):
    callback = Callback(url, Secret("token-of-the-call")) if url else None
    context = Context("t1", EXTENSION, "sha256:" + "0" * 64, "r1")
    return ExecuteRequest(
        context, HttpRequest("GET", "/"), Limits(5000), GRANTS, callback=callback, **more
    )


def test_without_a_way_back_the_error_says_what_to_set(asking):
    with pytest.raises(UnknownCapability, match="RUNNER_CALLBACK_BASE"):
        asking.of(request()).call("storage", "get", ("n", "k"), 5.0)


def test_a_runner_without_a_folder_of_sockets_says_what_to_set(tmp_path):
    remote = AskingBack(Settings(home=tmp_path)).of(request("unix://a.sock/runner/internal/v1"))
    with pytest.raises(UnknownCapability, match="RUNNER_CALLBACK_DIR"):
        remote.call("storage", "get", ("n", "k"), 5.0)


@pytest.mark.parametrize(
    "url",
    [
        "unix:///etc/app.sock/x",
        "unix://../app.sock/x",
        "unix://.hidden/x",
        "unix://a%2fb/x",
        "unix://a b/x",
        "unix://a.sock",
        "unix://a.sock/../x",
        "unix://a.sock/x?y",
        f"unix://{'a' * 300}/x",
        "unix:/run/app.sock",
        "file:///etc/passwd",
        "http://user@gateway/x",
        "http://169.254.169.254/x",
        "http://gateway/x?y=1",
        "gateway",
    ],
)
def test_a_place_that_no_gateway_has_is_not_asked(asking, url):
    with pytest.raises(UnknownCapability, match=r"callback\.url"):
        asking.of(request(url)).call("storage", "get", ("n", "k"), 5.0)


def answering(status, body=b"{}", **headers):
    def respond(handler):
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


@contextmanager
def gateway(respond):
    """A server whose answer to each question is *respond*'s."""
    with http_server(respond) as url:
        yield f"{url}/runner/internal/v1"


@pytest.mark.parametrize(
    "respond",
    [
        pytest.param(answering(200, b"<html>"), id="a page"),
        pytest.param(answering(200, b'{"ok": 1, "err": "x"}'), id="ok and err"),
        pytest.param(answering(200, b'{"ok": {"value": "?"}}'), id="no base64"),
        pytest.param(answering(302, Location="http://127.0.0.1:1/"), id="a redirect"),
        pytest.param(answering(401), id="401"),
        pytest.param(answering(403, b"<html>"), id="403 of somebody else"),
        pytest.param(answering(404, b"<html>"), id="404 of somebody else"),
        pytest.param(answering(413), id="413"),
        pytest.param(answering(500), id="500"),
        pytest.param(answering(200, b"x", Content_Length="99999999"), id="too long"),
        pytest.param(lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), id="no answer"),
    ],
)
def test_a_gateway_that_answers_wrongly_is_an_internal_error_and_is_told(asking, caplog, respond):
    with gateway(respond) as url, pytest.raises(CapabilityError) as failed:
        asking.of(request(url)).call("storage", "get", ("n", "k"), 5.0)
    assert failed.value.case == "internal"
    assert "callback.failed" in caplog.text
    assert "token-of-the-call" not in caplog.text


def test_an_error_case_that_is_not_of_the_enum_becomes_internal(asking):
    respond = answering(200, b'{"err": "no-such-case"}')
    with gateway(respond) as url, pytest.raises(CapabilityError) as failed:
        asking.of(request(url)).call("storage", "get", ("n", "k"), 5.0)
    assert failed.value.case == "internal"


def test_nobody_there_is_an_internal_error(asking, tmp_path):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{sock.getsockname()[1]}/x"
        for url in (closed, "unix://gateway-1-00000000.sock/x"):
            with pytest.raises(CapabilityError, match="gateway"):
                asking.of(request(url)).call("storage", "get", ("n", "k"), 5.0)


@pytest.mark.parametrize(
    ("interface", "function", "tries"),
    [("storage", "get", 2), ("storage", "delete", 1), ("weather", "get-it", 1)],
)
def test_only_what_reads_is_asked_twice_over_a_connection_that_died(
    asking, interface, function, tries
):
    asked = []

    def respond(handler):
        asked.append(handler.path)
        if len(asked) == 2:  # the second question over the kept connection
            handler.rfile.read(int(handler.headers["Content-Length"]))
            handler.close_connection = True
            return
        answering(200, b'{"ok": null}')(handler)

    args = ("n", "k")
    with gateway(respond) as url:
        remote = asking.of(request(url))
        remote.call(interface, function, args, 5.0)
        if tries == 1:
            with pytest.raises(CapabilityError):
                remote.call(interface, function, args, 5.0)
        else:
            remote.call(interface, function, args, 5.0)
    assert len(asked) == 1 + tries


def test_a_full_gateway_is_asked_again_until_the_time_is_over(asking):
    asked = []

    def respond(handler):
        asked.append(time.monotonic())
        answering(429)(handler)

    started = time.monotonic()
    with gateway(respond) as url, pytest.raises(CapabilityError, match="no slot"):
        asking.of(request(url)).call("storage", "get", ("n", "k"), 0.5)
    assert time.monotonic() - started < 3
    assert 2 <= len(asked) <= 12


def test_a_runner_behind_a_runner_gets_the_same_way_back(asking):
    asked = request("http://gateway/x")
    assert asking.of(asked).ask_back("http://elsewhere") == asked.callback


@pytest.mark.parametrize("name", ["a/../b", "A", "", "a b", "ä", "x" * 300 + "/"])
def test_a_name_that_is_none_is_not_sent(asking, name):
    remote = asking.of(replace(request("http://127.0.0.1:1/x"), providers=(f"cap:{name}",)))
    with pytest.raises(UnknownCapability):
        remote.call(name, "get", (), 5.0)


# `http.fetch` stays here


def fetching(tmp_path, url, egress, **settings):
    remote = AskingBack(Settings(home=tmp_path, **settings)).of(
        replace(request(egress=egress), providers=("cap:http.fetch",))
    )
    return remote.call("http", "fetch", ({"method": "GET", "url": url, "headers": []},), 5.0)


def test_a_fetch_is_made_where_the_guest_runs_under_the_calls_list(tmp_path):
    def respond(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"hi")

    with http_server(respond) as url:
        assert fetching(tmp_path, f"{url}/a", (url,))["body"] == b"hi"
        assert fetching(tmp_path, f"{url}/a", (url,), egress_allow=(url,))["body"] == b"hi"
        for egress, bound in (((), ()), ((url,), ("https://else.test",))):
            with pytest.raises(CapabilityError) as refused:
                fetching(tmp_path, f"{url}/a", egress, egress_allow=bound)
            assert refused.value.case == "not-allowed"


def test_a_token_is_readable_by_nobody_who_holds_a_request(site, base, asking):
    request = sent(site, base)
    token = request.callback.token.reveal()
    assert token not in repr(request) + str(request.callback)
    claims = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "==="))
    assert "correct horse" not in json.dumps(claims)
