"""Who calls, and may they: everything that is not clearly allowed is refused."""

import pytest
from support import make_environ

from runnerwsgi import Principal, Settings, access
from runnerwsgi.errors import (
    BadHeader,
    BadRequest,
    ConfigurationError,
    CrossSite,
    Forbidden,
    IdentityUnavailable,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
)
from runnerwsgi.manifest import Manifest

ADA = Principal("acme", "ada")
ADMIN = Principal("acme", "root", roles={"admin"})
ANYBODY = Principal("acme", None)
API = Principal("acme", "robot", credential="bearer")
OWN = ("https://app.test",)


def refuses(error, call, *args):
    with pytest.raises(error):
        call(*args)


def raise_error(environ):
    raise RuntimeError("session store is down")


def test_identify_names_the_caller():
    assert access.who(lambda environ: ADA, {}) is ADA


@pytest.mark.parametrize(
    ("identify", "error"),
    [
        pytest.param(lambda environ: None, Unauthenticated, id="nobody"),
        pytest.param(lambda environ: Principal("", "u"), Unauthenticated, id="an empty tenant"),
        pytest.param(raise_error, IdentityUnavailable, id="it raises"),
        pytest.param(lambda environ: "ada", ConfigurationError, id="a string"),
        pytest.param(lambda environ: True, ConfigurationError, id="a bool"),
        pytest.param(lambda environ: Principal("a\nb", "u"), ConfigurationError, id="line end"),
        pytest.param(access.identify_nobody, Unauthenticated, id="the default"),
    ],
)
def test_what_identify_must_not_be(identify, error):
    refuses(error, access.who, identify, {})


def test_what_identify_raised_is_not_told():
    with pytest.raises(IdentityUnavailable) as caught:
        access.who(raise_error, {})
    assert "session store" not in caught.value.detail


@pytest.mark.parametrize("host", ["localhost", "localhost:3000", "127.0.0.1:80", "[::1]:3000"])
def test_a_developer_on_the_same_machine_is_the_administrator(host):
    found = access.identify_local(make_environ(REMOTE_ADDR="127.0.0.1", HTTP_HOST=host))
    assert (found.tenant_id, found.user_id, found.is_admin) == ("default", "local", True)


@pytest.mark.parametrize(
    "more",
    [
        {"REMOTE_ADDR": "10.0.0.1"},
        {"REMOTE_ADDR": ""},
        {"REMOTE_ADDR": "localhost"},
        {"HTTP_HOST": "evil.test"},
        {"HTTP_HOST": "localhost.evil.test:3000"},
        {"HTTP_HOST": ""},
        {"HTTP_X_FORWARDED_FOR": "203.0.113.9"},
        {"HTTP_FORWARDED": "for=203.0.113.9"},
        {"HTTP_X_REAL_IP": "203.0.113.9"},
    ],
    ids=lambda more: "{} {!r}".format(*next(iter(more.items()))),
)
def test_nobody_else_is(more):
    given = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:3000", **more}
    assert access.identify_local(make_environ(**given)) is None


def test_local_identity_says_so_at_start(caplog):
    assert access.identifier(Settings(identity="local")) is access.identify_local
    assert "For development only" in caplog.text
    assert access.identifier(Settings()) is access.identify_nobody


def trusted(**environ):
    chosen = Settings(identity="header", identity_header="X-Tenant", trusted_proxies=("10.0.0.5",))
    return access.identifier(chosen)(make_environ(REMOTE_ADDR="10.0.0.5", **environ))


def test_a_trusted_proxy_names_tenant_and_user():
    found = trusted(HTTP_X_TENANT="acme", HTTP_X_TENANT_USER="ada")
    assert (found.tenant_id, found.user_id, found.is_admin) == ("acme", "ada", False)
    assert trusted(HTTP_X_TENANT="acme").user_id == "proxy"
    assert trusted(HTTP_X_TENANT=" ") is None
    assert trusted() is None


def test_a_proxy_that_is_not_trusted_names_nobody():
    header = access.TrustedHeader("X-Tenant", ["10.0.0.5"])
    assert header(make_environ(REMOTE_ADDR="10.0.0.6", HTTP_X_TENANT="acme")) is None


@pytest.mark.parametrize("key", ["HTTP_X_TENANT", "HTTP_X_TENANT_USER"])
def test_two_values_are_one_that_a_client_smuggled_in(key):
    refuses(BadHeader, lambda: trusted(**{"HTTP_X_TENANT": "a", key: "a,b"}))


@pytest.mark.parametrize("host", ["", "app.test", "app.test:8080", "[::1]:80", "10.0.0.1", None])
def test_a_host(host):
    access.check_host(make_environ(HTTP_HOST=host))


@pytest.mark.parametrize("host", ["a, b", "a@b", "a/b", "a b", "a\nb", "a:b", "a:123456", "[::1"])
def test_a_host_that_is_none(host):
    refuses(BadRequest, access.check_host, make_environ(HTTP_HOST=host))


def site(method, caller, site=None, origin=None, **more):
    given = {"HTTP_SEC_FETCH_SITE": site, "HTTP_ORIGIN": origin, **more}
    access.check_site(make_environ(method, **given), caller, OWN)


@pytest.mark.parametrize(
    ("method", "caller", "headers"),
    [
        ("POST", ADA, {"site": "same-origin"}),
        ("POST", ADA, {"site": "same-origin", "origin": "https://app.test"}),
        ("POST", ADA, {"origin": "https://app.test"}),
        ("GET", ADA, {}),
        ("GET", ADA, {"site": "none"}),
        ("POST", API, {}),
        ("DELETE", API, {"origin": "https://app.test"}),
    ],
)
def test_a_call_of_the_application_itself(method, caller, headers):
    site(method, caller, **headers)


@pytest.mark.parametrize(
    ("method", "caller", "headers"),
    [
        ("POST", ADA, {}),
        ("POST", ADA, {"site": "none"}),
        ("POST", ADA, {"site": "cross-site"}),
        ("POST", ADA, {"site": "same-site"}),
        ("POST", ADA, {"site": "same-origin", "origin": "null"}),
        ("POST", ADA, {"site": "same-origin", "origin": "https://evil.test"}),
        ("POST", ADA, {"origin": "http://app.test"}),
        ("POST", ADA, {"origin": "https://app.test:8443"}),
        ("GET", ADA, {"site": "cross-site"}),
        ("GET", ADA, {"origin": "https://evil.test"}),
        ("GET", ADA, {"site": "none", "HTTP_SEC_FETCH_MODE": "navigate"}),
        ("GET", ADA, {"site": "same-origin", "HTTP_SEC_FETCH_DEST": "script"}),
        ("POST", API, {"site": "cross-site"}),
        ("POST", API, {"origin": "null"}),
    ],
)
def test_a_call_that_another_site_could_have_caused(method, caller, headers):
    refuses(CrossSite, lambda: site(method, caller, **headers))


@pytest.mark.parametrize(
    ("origin", "passes"), [("https://anything.test", True), ("null", False)], ids=str
)
def test_without_configured_origins_the_browsers_word_has_to_do(origin, passes):
    environ = make_environ("POST", HTTP_SEC_FETCH_SITE="same-origin", HTTP_ORIGIN=origin)
    if passes:
        access.check_site(environ, ADA, ())
    else:
        refuses(CrossSite, access.check_site, environ, ADA, ())


@pytest.mark.parametrize("site", ["cross-site", "none", None])
@pytest.mark.parametrize("dest", ["script", "style", "document", "image"])
def test_a_sandboxed_page_loads_its_own_files(site, dest):
    access.check_asset_site(make_environ(HTTP_SEC_FETCH_SITE=site, HTTP_SEC_FETCH_DEST=dest))


@pytest.mark.parametrize("dest", ["script", "sharedworker", "serviceworker", "manifest", "xslt"])
def test_an_application_page_loads_no_code_of_an_extension(dest):
    environ = make_environ(HTTP_SEC_FETCH_SITE="same-origin", HTTP_SEC_FETCH_DEST=dest)
    refuses(CrossSite, access.check_asset_site, environ)
    refuses(CrossSite, access.check_asset_site, make_environ(HTTP_SERVICE_WORKER="script"))


OPEN = Manifest.from_json('{"name": "a.b", "version": "1.0.0"}')
ADVISORY = Manifest.from_json(
    '{"name": "a.b", "version": "1.0.0", "api": {"endpoints":'
    '[{"method": "GET", "path": "/listed", "handler": "h"}]}}'
)
COMPLETE = Manifest.from_json(
    '{"name": "a.b", "version": "1.0.0", "api": {"endpoints": ['
    '{"method": "GET", "path": "/open", "handler": "h", "access": "public"},'
    '{"method": "POST", "path": "/notes/:id", "handler": "h"},'
    '{"method": "POST", "path": "/admin", "handler": "h", "access": "admin"}]}}'
)


@pytest.mark.parametrize(
    ("caller", "manifest", "method", "path"),
    [
        (ADA, OPEN, "GET", "/any"),
        (ADA, ADVISORY, "DELETE", "/not-listed"),
        (ANYBODY, COMPLETE, "GET", "/open"),
        (ANYBODY, COMPLETE, "HEAD", "/open"),
        (ADA, COMPLETE, "POST", "/notes/7"),
        (ADMIN, COMPLETE, "POST", "/admin"),
    ],
)
def test_a_caller_who_may(caller, manifest, method, path):
    access.check_level(caller, manifest, method, path)


@pytest.mark.parametrize(
    ("caller", "manifest", "method", "path", "error"),
    [
        (ANYBODY, OPEN, "GET", "/any", Unauthenticated),
        (ANYBODY, ADVISORY, "GET", "/listed", Unauthenticated),
        (ANYBODY, COMPLETE, "POST", "/notes/7", Unauthenticated),
        (ANYBODY, COMPLETE, "POST", "/admin", Unauthenticated),
        (ADA, COMPLETE, "POST", "/admin", Forbidden),
        (ADMIN, COMPLETE, "GET", "/admin", MethodNotAllowed),
        (ADMIN, COMPLETE, "POST", "/admin/", NotFound),
        (ADMIN, COMPLETE, "POST", "//admin", NotFound),
        (ADMIN, COMPLETE, "POST", "/Admin", NotFound),
    ],
)
def test_a_caller_who_may_not(caller, manifest, method, path, error):
    refuses(error, access.check_level, caller, manifest, method, path)
