"""What a route grant allows, and which ones are refused."""

import pytest

from runnerwsgi.errors import ConfigurationError
from runnerwsgi.routes import RouteGrant


@pytest.mark.parametrize(
    ("grant", "method", "path", "granted"),
    [
        pytest.param("GET /api/x", "GET", "/api/x", True, id="the path itself"),
        pytest.param("GET /api/x", "POST", "/api/x", False, id="another method"),
        pytest.param("GET /api/x", "HEAD", "/api/x", False, id="head is not get"),
        pytest.param("GET /api/x", "get", "/api/x", False, id="lower case"),
        pytest.param("GET /api/x", "GET", "/api/x/", False, id="a slash more"),
        pytest.param("GET /api/x", "GET", "/API/X", False, id="another case"),
        pytest.param("GET /api/x", "GET", "/api/xy", False, id="a longer name"),
        pytest.param("GET /api/x", "GET", "/api/x/y", False, id="below"),
        pytest.param("GET /api/x/", "GET", "/api/x/", True, id="with its slash"),
        pytest.param("GET /", "GET", "/", True, id="the root"),
        pytest.param("GET /", "GET", "/x", False, id="not the root"),
        pytest.param("GET /api/*", "GET", "/api/x", True, id="a star"),
        pytest.param("GET /api/*", "GET", "/api/", False, id="a star is not empty"),
        pytest.param("GET /api/*", "GET", "/api/x/y", False, id="a star is one segment"),
        pytest.param("GET /api/:id/notes", "GET", "/api/42/notes", True, id="a parameter"),
        pytest.param("GET /api/:id/notes", "GET", "/api//notes", False, id="an empty parameter"),
        pytest.param("GET /api/**", "GET", "/api/x/y", True, id="whatever follows"),
        pytest.param("GET /api/**", "GET", "/api/", True, id="nothing but the slash"),
        pytest.param("GET /api/**", "GET", "/api", False, id="not the folder itself"),
        pytest.param("GET /api/**", "GET", "/apix", False, id="not a longer name"),
        pytest.param("GET /api/**", "GET", "/api/../admin", False, id="a dot segment"),
        pytest.param("GET /api/**", "GET", "/api/./x", False, id="a single dot"),
        pytest.param("GET /api/**", "GET", "/api/..;x/admin", False, id="a dotted parameter"),
        pytest.param("GET /api/**", "GET", "/api//x", False, id="an empty segment"),
        pytest.param("GET /api/**", "GET", "/api/%2e%2e/x", False, id="dots encoded twice"),
        pytest.param("GET /api/**", "GET", "/api/a%2Fb", False, id="a slash encoded twice"),
        pytest.param("GET /api/**", "GET", "/api/a\\b", False, id="a backslash"),
        pytest.param("GET /api/**", "GET", "/api/a\nb", False, id="a line break"),
        pytest.param("GET /api/**", "GET", "/api/a\x00", False, id="a null"),
        pytest.param("GET /api/**", "GET", "/api/Grüße 🎉", True, id="any letters"),
        pytest.param("GET /a.b/c+d", "GET", "/a.b/c+d", True, id="letters of patterns"),
        pytest.param("GET /a.b/c+d", "GET", "/axb/ccd", False, id="which mean only themselves"),
        pytest.param("GET /**", "GET", "/x", True, id="everything"),
        pytest.param("GET /api/*", "GET", "api/x", False, id="no slash at the start"),
    ],
)
def test_a_route_grant_allows_exactly_what_it_says(grant, method, path, granted):
    assert RouteGrant.parse(grant).match(method, path) is granted


@pytest.mark.parametrize(
    "text",
    [
        *("", "GET", "/api/x", "get /x", "GET api/x", "GET /a/../b", "GET /a/./b", "GET /a//b"),
        *(
            "GET /a%2fb",
            "GET /a?x=1",
            "GET /a#b",
            "GET /a/**/b",
            "GET /a/x*",
            "GET /a\\b",
            "GET //",
        ),
        *("GET /:", "GET /a b", "TRACE /a", "GET http://x/a", "GET /**/", "GET ***", "GET **"),
    ],
)
def test_a_route_grant_that_could_mean_two_things_is_refused(text):
    with pytest.raises(ConfigurationError):
        RouteGrant.parse(text)


def test_a_route_grant_reads_as_it_was_written():
    assert str(RouteGrant.parse("  GET   /api/x/** ")) == "GET /api/x/**"
