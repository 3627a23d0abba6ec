"""Paths in our mounts: parsed, or refused; nothing is normalised."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runnerwsgi import paths
from runnerwsgi.errors import BadPath, UriTooLong


def wsgi(text):
    """*text* as a server hands it over: its UTF-8 bytes, as latin-1 (PEP 3333)."""
    return text.encode("utf-8").decode("latin-1")


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a/b.js", "/café", "/a b", "/...", "/a..b", "/.well-known", "/100%", "/%zz", "//"],
)
def test_a_plain_path_is_decoded_and_nothing_else(path):
    assert paths.decode(wsgi(path)) == path


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/a/../b", id="dot-dot"),
        pytest.param("/.", id="a dot"),
        pytest.param("/..;x/b", id="dot-dot with a parameter"),
        pytest.param("/a\\b", id="backslash"),
        pytest.param("/admin?a", id="a question mark, where a guest's path ends"),
        pytest.param("/admin#a", id="a number sign, where a guest's path ends"),
        pytest.param("/%2e%2e/b", id="dots encoded twice"),
        pytest.param("/a%2Fb", id="a slash encoded twice"),
        pytest.param("/a%5cb", id="a backslash encoded twice"),
        pytest.param("/a%00b", id="a NUL encoded twice"),
        pytest.param("/a%252e", id="encoded thrice"),
        pytest.param("/a\0b", id="NUL"),
        pytest.param("/a\r\nb", id="CR LF"),
        pytest.param("/a\x7fb", id="DEL"),
        pytest.param(wsgi("/a\x85b"), id="next line"),
        pytest.param(wsgi("/a\u2028b"), id="line separator"),
        pytest.param(wsgi("/a\u202eb"), id="direction override"),
        pytest.param("/\xff", id="invalid UTF-8"),
        pytest.param("/\xc0\xae", id="an overlong dot"),
        pytest.param("/\u20ac", id="text that is no byte"),
    ],
)
def test_what_would_need_normalising_is_refused(path):
    with pytest.raises(BadPath):
        paths.decode(path)


def test_a_path_has_2_kib():
    assert len(paths.decode("/" + "a" * 2047)) == 2048
    with pytest.raises(UriTooLong):
        paths.decode("/" + "a" * 2048)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=30).map("/".__add__))
@example("/..")
@example("/\x85")
def test_what_decodes_is_the_bytes_and_walks_nowhere(path):
    try:
        decoded = paths.decode(path)
    except BadPath:
        return
    assert decoded.encode("utf-8").decode("latin-1") == path
    assert not {".", ".."} & set(decoded.split("/"))
    assert not set(decoded) & set("\\?#\0\r\n\x7f\x85\u2028\u2029")


@pytest.mark.parametrize("text", ["a", "acme.hello", "A-1_b", "0", "a" * 128])
def test_an_extension_id(text):
    assert paths.parse_extension_id(text) == text


@pytest.mark.parametrize(
    "text", ["", ".a", "-a", "a..b", "a/b", "a b", "a\n", "á", "a@b", "a:b", "a%2e", "a" * 129]
)
def test_what_is_no_extension_id(text):
    assert not paths.is_extension_id(text)
    with pytest.raises(BadPath):
        paths.parse_extension_id(text)


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/runner", ""),
        ("/runner/", "/"),
        ("/runner/a", "/a"),
        ("/runners", None),
        ("/Runner/a", None),
        ("/x/runner", None),
        ("", None),
        ("runner/a", None),
    ],
)
def test_a_mount_ends_at_a_segment_boundary(path, rest):
    assert paths.under("/runner", path) == rest


@pytest.mark.parametrize("query", ["", "a=1&a=2", "%00%0d%0a", "a" * 8192])
def test_a_query_stays_as_it_is(query):
    assert paths.check_query(query) == query


@pytest.mark.parametrize(
    ("query", "error"),
    [("a" * 8193, UriTooLong), ("\xe9", BadPath), ("a\r\nb", BadPath), ("a\0", BadPath)],
    ids=["too long", "not ASCII", "CR LF", "NUL"],
)
def test_a_query_that_is_none(query, error):
    with pytest.raises(error):
        paths.check_query(query)


@pytest.mark.parametrize(
    ("script_name", "expected"),
    [
        ("", ""),
        ("/", ""),
        ("/app", "/app"),
        ("/app/", "/app"),
        (wsgi("/é\r\n"), "/%C3%A9%0D%0A"),
        ("/a b?c#d", "/a%20b%3Fc%23d"),
    ],
)
def test_script_name_stands_in_urls_quoted(script_name, expected):
    assert paths.script_name({"SCRIPT_NAME": script_name}) == expected


def test_the_public_path_of_a_file_is_quoted():
    content_hash = "sha256:" + "0" * 64
    path = paths.ui_path("acme.hello", content_hash, "a/b c?.html")
    assert path == f"/ext-ui/acme.hello/{content_hash}/a/b%20c%3F.html"
