"""UI files: from the bundle store or a real server, capped, timed, checked, cached."""

import hashlib
import socketserver
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from peers import self_signed, unused_port
from support import answer_with, http_server, in_thread

from runnerwsgi.assets import Assets
from runnerwsgi.errors import (
    BackendUnreachable,
    BadRunnerResponse,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    StorageError,
)

HELLO = b"<p>hello</p>"
DIGEST = hashlib.sha256(HELLO).hexdigest()


@pytest.fixture
def assets(tmp_path):
    assets = Assets(tmp_path / "bundles", max_bytes=1000)
    yield assets
    assets.close()


@contextmanager
def raw_server(*chunks, pause=0.0):
    """A server that sends these bytes one after the other, whatever it is asked."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(4096)
            for chunk in chunks:
                try:
                    self.request.sendall(chunk)
                except OSError:
                    return
                time.sleep(pause)

    with in_thread(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}/x"


def test_a_verified_file_is_kept_and_its_etag_is_its_content(assets):
    asked = []
    with http_server(lambda h: (asked.append(h.path), answer_with(h, HELLO))) as base:
        asset = assets.load(f"{base}/a/index.html?v=1", "index.html", DIGEST, 5)
    assert (asset.data, asset.verified, asked) == (HELLO, True, ["/a/index.html?v=1"])
    assert asset.content_type == "text/html; charset=utf-8"
    assert asset.etag == f'"{DIGEST[:32]}"'
    assert assets.cached("index.html", DIGEST) is asset


def test_one_content_under_two_types_is_kept_twice(assets):
    with http_server(lambda h: answer_with(h, HELLO)) as base:
        assets.load(f"{base}/a", "a.html", DIGEST, 5)
    assert assets.cached("b.html", DIGEST)
    assert assets.cached("a.txt", DIGEST) is None


def test_a_file_without_a_digest_is_served_and_not_kept(assets):
    with http_server(lambda h: answer_with(h, HELLO)) as base:
        asset = assets.load(f"{base}/a", "a.html", None, 5)
    assert not asset.verified
    assert assets.cached("a.html", asset.digest) is None


def test_other_bytes_than_those_installed_are_refused(assets):
    with (
        http_server(lambda h: answer_with(h, b"evil")) as base,
        pytest.raises(BadRunnerResponse, match=r"a\.html"),
    ):
        assets.load(f"{base}/a", "a.html", DIGEST, 5)
    assert assets.cached("a.html", DIGEST) is None


def test_a_redirect_is_not_followed(assets):
    asked = []

    def respond(handler):
        asked.append(handler.path)
        answer_with(handler, status=302, Location="/secret")

    with http_server(respond) as base, pytest.raises(BadRunnerResponse, match="302"):
        assets.load(f"{base}/a", "a.html", None, 5)
    assert asked == ["/a"]


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFound), (206, BadRunnerResponse), (500, BadRunnerResponse)]
)
def test_a_status_other_than_200_is_no_file(assets, status, error):
    with (
        http_server(lambda h: answer_with(h, b"oops", status=status)) as base,
        pytest.raises(error),
    ):
        assets.load(f"{base}/a", "a.html", None, 5)


def test_an_encoded_file_is_refused_undecoded(assets):
    with (
        http_server(lambda h: answer_with(h, b"\x1f\x8b", Content_Encoding="gzip")) as base,
        pytest.raises(BadRunnerResponse, match="encoded"),
    ):
        assets.load(f"{base}/a", "a.html", None, 5)


def test_neither_cookies_nor_the_environments_proxy_are_used(assets, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    heard = {}
    with http_server(lambda h: (heard.update(h.headers), answer_with(h, HELLO))) as base:
        assets.load(f"{base}/a", "a.html", DIGEST, 5)
    assert heard["Accept-Encoding"] == "identity"
    assert set(heard) == {"Host", "Accept-Encoding", "User-Agent"}


def test_the_largest_file_passes_and_one_byte_more_does_not(assets):
    with http_server(lambda h: answer_with(h, bytes(int(h.path[1:])))) as base:
        assert len(assets.load(f"{base}/1000", "a.bin", None, 5).data) == 1000
        with pytest.raises(BadRunnerResponse, match="1000 allowed"):
            assets.load(f"{base}/1001", "a.bin", None, 5)
        # The connection with unread bytes was not used again.
        assert len(assets.load(f"{base}/3", "a.bin", None, 5).data) == 3


def test_a_body_that_ends_early_is_no_file(assets):
    with (
        raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf") as url,
        pytest.raises(BadRunnerResponse),
    ):
        assets.load(url, "a.html", None, 5)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", id="with a length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", id="until it closes"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Slow: ", id="in a header"),
        pytest.param(b"", id="before the status line"),
    ],
)
def test_a_slow_drip_does_not_reset_the_deadline(assets, head):
    started = time.monotonic()
    with (
        raw_server(head, *[b"1"] * 100, pause=0.05) as url,
        pytest.raises(DeadlineExceeded, match=r"0\.3 s"),
    ):
        assets.load(url, "a.html", None, 0.3)
    assert time.monotonic() - started < 4


def test_silence_ends_at_the_deadline(assets):
    with raw_server(b"", pause=1) as url, pytest.raises(DeadlineExceeded):
        assets.load(url, "a.html", None, 0.2)


def test_silence_after_a_part_ends_at_the_same_deadline(assets):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    started = time.monotonic()
    # The last byte comes late; from then on a read has what is left, and not a second more.
    with raw_server(head, b"1", b"2", *[b""] * 3, pause=0.4) as url:
        with pytest.raises(DeadlineExceeded):
            assets.load(url, "a.html", None, 1)
        assert time.monotonic() - started < 1.5


def test_a_refused_connection_is_unreachable_and_no_timeout(assets):
    with pytest.raises(BackendUnreachable):
        assets.load(f"http://127.0.0.1:{unused_port()}/", "a.html", None, 5)


@pytest.mark.parametrize("trusted", [True, False], ids=["a known authority", "an unknown one"])
def test_over_tls_the_certificate_is_checked(assets, tmp_path, monkeypatch, trusted):
    file = self_signed(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with http_server(lambda h: answer_with(h, HELLO), certificate=file) as base:
        if trusted:
            assert assets.load(f"{base}/a", "a.html", DIGEST, 5).data == HELLO
            return
        with pytest.raises(BackendUnreachable, match="certificate"):
            assets.load(f"{base}/a", "a.html", DIGEST, 5)


def test_garbage_instead_of_http_is_a_bad_answer(assets):
    with raw_server(b"220 smtp ready\r\n") as url, pytest.raises(BadRunnerResponse):
        assets.load(url, "a.html", None, 5)


def test_the_files_of_a_page_wait_for_each_other(tmp_path):
    most, inside, lock = [0], [0], threading.Lock()

    def respond(handler):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        with lock:
            inside[0] -= 1
        answer_with(handler, HELLO)

    assets = Assets(tmp_path, max_bytes=1000, connections=2)
    with http_server(respond) as base, ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(assets.load, f"{base}/{n}", "a.html", None, 5) for n in range(16)]
        assert [load.result().data for load in loads] == [HELLO] * 16
    assets.close()
    assert most == [2]


def test_behind_a_remote_that_hangs_nobody_waits_until_it_answers_again(tmp_path):
    asked = []

    def respond(handler):
        asked.append(handler.path)
        if handler.path == "/slow":
            go.wait(20)
        answer_with(handler, HELLO)

    go = threading.Event()
    assets = Assets(tmp_path, max_bytes=1000)
    with http_server(respond) as base, ThreadPoolExecutor(1) as pool:
        with pytest.raises(DeadlineExceeded):
            assets.load(f"{base}/slow", "a.html", None, 0.2)
        second = pool.submit(assets.load, f"{base}/slow", "a.html", None, 15)
        while asked.count("/slow") < 2:
            time.sleep(0.01)
        with pytest.raises(Overloaded):
            assets.load(f"{base}/fast", "a.html", None, 15)
        assert not second.done()
        go.set()
        assert second.result().data == HELLO
        go.clear()
        slow = pool.submit(assets.load, f"{base}/slow", "a.html", None, 15)
        while asked.count("/slow") < 3:
            time.sleep(0.01)
        threading.Timer(0.3, go.set).start()
        # It answers again, and is waited for.
        assert assets.load(f"{base}/fast", "a.html", None, 15).data == HELLO
        assert slow.result().data == HELLO
    assets.close()


def test_a_runner_is_told_whose_install_a_file_is_of(assets):
    heard = {}
    with http_server(lambda h: (heard.update(h.headers), answer_with(h, HELLO))) as base:
        assets.load(f"{base}/a", "a.html", DIGEST, 5, "größe\n")
    assert heard["X-Tenant-Id"] == "gr%C3%B6%C3%9Fe%0A"


def test_a_busy_remote_is_not_waited_for_longer_than_a_second(tmp_path):
    assets = Assets(tmp_path, max_bytes=1000, connections=1)
    release = threading.Event()
    entered = threading.Event()

    def respond(handler):
        entered.set()
        release.wait(5)
        answer_with(handler, HELLO)

    with http_server(respond) as base:
        first = threading.Thread(target=assets.load, args=(f"{base}/a", "a.html", DIGEST, 5))
        first.start()
        entered.wait(5)
        with pytest.raises(Overloaded):
            assets.load(f"{base}/b", "b.txt", None, 0.1)
        release.set()
        first.join()
    assert assets.cached("a.html", DIGEST)
    assets.close()
    assert assets.cached("a.html", DIGEST) is None


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/a",
        "http://user@127.0.0.1/a",
        "http://127.0.0.1:99999/a",
        "http://127.1/a",
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1/a\r\nX: y",
        "javascript:1",
        "",
    ],
)
def test_what_is_no_strict_url_is_never_fetched(assets, url):
    with pytest.raises(BadRunnerResponse):
        assets.load(url, "a.html", None, 5)


@pytest.fixture
def stored(assets):
    """A file in the bundle store, and one beside it."""
    inside = assets.bundles / "sha256" / "ab" / "ui" / "a b.html"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(HELLO)
    (assets.bundles.parent / "secret.txt").write_text("secret")
    return inside


def test_a_file_of_the_bundle_store_is_read(assets, stored):
    assert assets.load(stored.as_uri(), "a b.html", DIGEST, 5).data == HELLO


@pytest.mark.parametrize(
    ("path", "error"),
    [
        pytest.param("missing.html", NotFound, id="a file that is not there"),
        pytest.param(".", NotFound, id="a folder"),
        pytest.param("a b.html/x", NotFound, id="below a file"),
        pytest.param("a" * 300, NotFound, id="a name that no file can have"),
        pytest.param("../../../../secret.txt", BadRunnerResponse, id="a way out"),
        pytest.param("%2e%2e/../../../secret.txt", BadRunnerResponse, id="an encoded way out"),
        pytest.param("link", BadRunnerResponse, id="a link out"),
        pytest.param("loop", StorageError, id="a link to itself"),
    ],
)
def test_nothing_else_is_read(assets, stored, path, error):
    (stored.parent / "link").symlink_to(assets.bundles.parent / "secret.txt")
    (stored.parent / "loop").symlink_to(stored.parent / "loop")
    with pytest.raises(error):
        assets.load(f"file://{stored.parent}/{path}", "x.txt", None, 5)


def test_without_a_bundle_store_no_file_is_read(stored):
    with pytest.raises(BadRunnerResponse):
        Assets(None, 1000).load(stored.as_uri(), "a.html", None, 5)


def test_the_least_recently_used_file_leaves_memory_first(assets, monkeypatch):
    monkeypatch.setattr("runnerwsgi.assets.CACHE_BYTES", 2000)
    files = {hashlib.sha256(data).hexdigest(): data for data in (b"a" * 900, b"b" * 900, b"c" * 9)}
    first, second, third = files
    with http_server(lambda h: answer_with(h, files[h.path[1:]])) as base:
        for digest in (first, second):
            assets.load(f"{base}/{digest}", "x.txt", digest, 5)
        assert assets.cached("x.txt", first)  # used again: now the second is the oldest
        big = hashlib.sha256(b"d" * 300).hexdigest()
        files[big] = b"d" * 300
        for digest in (third, big):
            assets.load(f"{base}/{digest}", "x.txt", digest, 5)
    assert [bool(assets.cached("x.txt", d)) for d in (first, second, third, big)] == [
        True,
        False,
        True,
        True,
    ]
