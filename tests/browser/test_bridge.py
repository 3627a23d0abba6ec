"""The bridge in a real browser, against pages that mean no good and servers that are busy."""

import pytest

from browser.pages import add_note, open_panel, panel, thrown, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ENVELOPE = "{alga: true, version: '1', type: 'apiproxy', request_id: 'r', payload: %s}"


def calls_of(page):
    """The handler calls that leave the browser from now on."""
    calls = []
    page.on("request", lambda r: calls.append(r.url) if "/api/ext/" in r.url else None)
    return calls


ROUTES = {
    "without a slash": "notes",
    "another host": "https://example.com/notes",
    "climbing": "/../../orders",
    "climbing in disguise": "/%2e%2E/%2e%2e/orders",
    "climbing half in disguise": "/notes/.%2e/../../orders",
    "a backslash": "/..\\\\..\\\\orders",
    "a tab that parsers drop": "/.\\t./orders",
    "a fragment": "/notes#x",
    "too long": "/" + "x" * 9000,
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_a_call_stays_in_its_extension(page, frame, route):
    calls = calls_of(page)
    assert thrown(frame, f"runner.fetch('{route}').then((r) => r.status)") == "RunnerError"
    assert calls == []


@pytest.mark.parametrize(
    "options",
    ["{method: 'OPTIONS'}", "{method: 'TRACE'}", "{method: 'GET', body: 'x'}"],
    ids=["OPTIONS", "TRACE", "GET with a body"],
)
def test_only_methods_of_handlers_are_carried(page, frame, options):
    calls = calls_of(page)
    assert thrown(frame, f"runner.fetch('/notes', {options})") == "RunnerError"
    assert calls == []


def test_a_body_that_is_too_large_does_not_leave_the_browser(page, frame):
    calls = calls_of(page)
    script = "runner.fetch('/notes', {method: 'POST', body: 'x'.repeat(2 ** 20 + 1)})"
    assert thrown(frame, script) == "RunnerError"
    assert calls == []


def test_the_extension_is_the_one_of_the_element_whatever_the_message_says(page, frame):
    calls = calls_of(page)
    payload = "{route: '/notes', method: 'GET', extension: 'x.y', extensionId: 'x.y'}"
    frame.evaluate(f"() => parent.postMessage({ENVELOPE % payload}, '*')")
    page.wait_for_timeout(300)
    assert [url.split("/api/ext/")[1] for url in calls] == ["demo.notes/notes"]


def test_another_frame_of_the_page_gets_no_call_through(page, frame):
    calls = calls_of(page)
    page.evaluate(
        """(message) => {
          const other = document.createElement('iframe');
          other.srcdoc = `<script>parent.postMessage(${message}, '*')</${'script'}>`;
          document.body.append(other);
          window.postMessage({alga: true, version: '1', type: 'apiproxy', payload: {}}, '*');
        }""",
        ENVELOPE % "{route: '/notes', method: 'GET'}",
    )
    page.wait_for_timeout(300)
    assert calls == []


def test_a_frame_of_its_own_gets_no_call_through(page, frame):
    """Of all windows only the page's own counts, not what it opens inside itself."""
    calls = calls_of(page)
    frame.evaluate(
        """(message) => {
          const inner = document.createElement('iframe');
          inner.srcdoc = `<script>top.postMessage(${message}, '*')</${'script'}>`;
          document.body.append(inner);
        }""",
        ENVELOPE % "{route: '/notes', method: 'GET'}",
    )
    page.wait_for_timeout(300)
    assert calls == []


def test_a_page_that_leaves_is_cut_off(page, frame):
    page.evaluate("addEventListener('runner-error', (e) => (window.told = e.detail.message))")
    frame.evaluate("() => void (location.href = 'about:blank')")
    page.wait_for_selector("text=The extension left its own page and was closed.")
    assert page.locator("runner-extension iframe").count() == 0
    assert "left its own page" in page.evaluate("told")
    page.click("runner-extension button")
    assert panel(page).inner_text("h1").startswith("Notes")


@pytest.mark.parametrize(
    ("asked", "height"),
    [("1e9", 4000), ("-5", 100), ("'400px'", None), ("NaN", None)],
    ids=["too high", "too low", "not a number", "NaN"],
)
def test_a_height_is_a_number_within_limits(page, frame, asked, height):
    before = page.locator("runner-extension iframe").bounding_box()["height"]
    frame.evaluate(f"() => runner.resize({asked})")
    page.wait_for_timeout(100)
    after = page.locator("runner-extension iframe").bounding_box()["height"]
    assert after == (height or before)


def test_the_host_hears_where_a_page_wants_to_go_and_decides(page, frame):
    page.evaluate(
        """() => addEventListener('runner-navigate', (e) =>
             (window.asked = [...(window.asked || []), e.detail.extension + e.detail.path]))"""
    )
    for path in ("//example.com", "javascript:alert(1)", "/orders"):
        frame.evaluate("(path) => runner.navigate(path)", path)
    wait_until(page, lambda: page.evaluate("window.asked"))
    assert page.evaluate("asked") == ["demo.notes/orders"]
    assert page.url.endswith("/")


def test_a_page_of_algapsa_that_knows_window_messages_only_is_answered(frame):
    answer = frame.evaluate(
        """(message) => new Promise((done) => {
          addEventListener('message', (event) => {
            if (event.data.type === 'apiproxy_response') done([event.origin, event.data]);
          });
          parent.postMessage(message, '*');
        })""",
        {
            "alga": True,
            "version": "1",
            "type": "apiproxy",
            "request_id": "theirs-1",
            "payload": {"route": "/notes?customer=greenway", "method": "GET"},
        },
    )
    origin, envelope = answer
    assert origin.startswith("http://127.0.0.1:")
    assert envelope["request_id"] == "theirs-1"
    assert envelope["payload"]["status"] == 200
    assert envelope["payload"]["body"]


def test_nothing_but_a_port_reaches_a_window_message(page, shop):
    """What is posted to "*" may be read by whoever is in the frame by then."""
    page.add_init_script(
        """window.got = [];
           const keep = (event) => event.isTrusted && got.push(event.data);
           if (window !== top) addEventListener('message', keep);"""
    )
    frame = open_panel(page, shop)
    add_note(frame)
    assert frame.evaluate("got") == [{"alga": True, "version": "1", "type": "port"}]


def test_no_more_than_six_calls_run_at_once(page, frame):
    held = []
    page.route("**/api/ext/**", lambda route: held.append(route))
    nine = "[...Array(9)].map(() => runner.fetch('/notes'))"
    frame.evaluate(f"() => void (window.all = Promise.all({nine}))")
    page.wait_for_timeout(300)
    assert len(held) == 6
    for answered, route in enumerate(held, 1):  # grows while it is walked
        route.fulfill(body="{}")
        page.wait_for_timeout(50)
        assert len(held) <= 6 + answered
    assert frame.evaluate("() => all.then((answers) => answers.length)") == 9


def busy_then(answers, code="overloaded", **more):
    """Answers 503 so many times, and then lets calls through."""
    left = [None] * answers
    problem = {"status": 503, "headers": {"retry-after": "0"}, "json": {"code": code, **more}}

    def handle(route):
        if not left:
            return route.fallback()
        left.pop()
        return route.fulfill(**problem)

    return handle


@pytest.mark.parametrize(
    ("method", "code", "status"),
    [("GET", "anything", 200), ("POST", "overloaded", 200), ("POST", "anything", 503)],
    ids=["a read", "a write that was not executed", "a write of unknown fate"],
)
def test_a_busy_server_is_asked_again_for(page, frame, method, code, status):
    page.route("**/api/ext/**", busy_then(2, code))
    body = "{text: 'again'}" if method == "POST" else "undefined"
    script = (
        f"() => runner.fetch('/notes', {{method: '{method}', body: {body}}}).then((r) => r.status)"
    )
    assert frame.evaluate(script) == status


def test_a_call_is_made_again_with_the_key_that_it_had(page, frame):
    key = "0123456789abcdef"
    page.route("**/api/ext/**", busy_then(1, "backend-starting", idempotency_key=key))
    with page.expect_request(lambda asked: asked.headers.get("idempotency-key") == key):
        frame.evaluate("() => runner.fetch('/notes', {method: 'POST', body: {text: 'once'}})")


def test_a_server_that_stays_busy_is_not_asked_forever(page, frame):
    page.route("**/api/ext/**", busy_then(3))
    assert frame.evaluate("() => runner.fetch('/notes').then((r) => r.status)") == 503


def test_only_known_headers_reach_the_page(page, frame):
    headers = {"content-type": "text/plain", "x-ext-a": "1", "x-frame-options": "DENY", "date": "x"}
    page.route("**/api/ext/**", lambda route: route.fulfill(status=200, headers=headers, body="ok"))
    script = "() => runner.fetch('/x').then((r) => Object.fromEntries(r.headers))"
    assert frame.evaluate(script) == {"content-type": "text/plain", "x-ext-a": "1"}


def test_bytes_cross_unchanged(page, frame):
    sent = []

    def answer(route):
        sent.append(route.request.post_data_buffer)
        route.fulfill(status=200, body=bytes(range(256)) * 300)

    page.route("**/api/ext/**", answer)
    script = """async () => {
      const bytes = Uint8Array.from({length: 256 * 300}, (_, i) => i % 256);
      const response = await runner.fetch('/x', {method: 'PUT', body: bytes});
      const back = await response.bytes();
      return back.length === bytes.length && back.every((b, i) => b === bytes[i]);
    }"""
    assert frame.evaluate(script) is True
    assert sent == [bytes(range(256)) * 300]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "Sign in to use this extension."),
        (404, "This extension is not installed."),
        (502, "This extension cannot be started right now."),
        (500, "This extension is not available right now."),
    ],
    ids=["signed out", "not installed", "runner down", "anything else"],
)
def test_the_element_says_why_it_shows_nothing(page, shop, status, text):
    page.route("**/runner/extensions/**", lambda route: route.fulfill(status=status, body="{}"))
    page.goto(shop)
    page.wait_for_selector(f"runner-extension [role=alert]:has-text('{text}')")
    page.unroute("**/runner/extensions/**")
    page.click("runner-extension button")
    assert panel(page).inner_text("#greeting") == "Welcome back, Mara."


def test_an_extension_that_is_not_installed_is_not_shown(page, frame):
    page.evaluate("document.querySelector('runner-extension').setAttribute('extension', 'no.such')")
    page.wait_for_selector("text=This extension is not installed.")


def test_a_page_whose_files_are_gone_is_not_shown_as_text(page, shop):
    page.route("**/ext-ui/**", lambda route: route.fulfill(status=502, body="{problem}"))
    page.goto(shop)
    page.wait_for_selector("text=This extension cannot be started right now.")
    assert page.locator("runner-extension iframe").count() == 0


def test_a_page_that_connects_to_nothing_is_shown_all_the_same(page, shop):
    page.route("**/client.js", lambda route: route.fulfill(status=200, body=""))
    page.goto(shop)
    page.wait_for_selector("runner-extension iframe:not(.waiting)")


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        (["allow-forms", "allow-modals"], "allow-scripts allow-forms allow-modals"),
        (["allow-same-origin", "allow-top-navigation", "x"], "allow-scripts"),
        ("allow-same-origin", "allow-scripts"),
    ],
    ids=["known ones are added", "dangerous ones never", "text instead of a list"],
)
def test_permissions_of_the_frame(page, shop, given, tokens):
    def describe(route):
        route.fulfill(json={**route.fetch().json(), "sandbox": given})

    page.route("**/runner/extensions/**", describe)
    open_panel(page, shop)
    assert page.locator("runner-extension iframe").get_attribute("sandbox") == tokens


@pytest.mark.parametrize("field", ["ui", "api"])
@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x"], ids=["script", "data"])
def test_an_address_that_is_no_address_is_refused(page, shop, field, url):
    page.route(
        "**/runner/extensions/**",
        lambda route: route.fulfill(json={"ui": "/x", "api": "/api/ext/x", field: url}),
    )
    page.goto(shop)
    page.wait_for_selector("text=The address of this extension is not usable.")


def test_two_elements_talk_to_their_own_frames(page, frame):
    page.evaluate(
        """() => {
          const other = document.createElement('runner-extension');
          other.setAttribute('extension', 'demo.notes');
          other.setAttribute('path', '/customers/second');
          document.body.append(other);
        }"""
    )
    second = page.locator("runner-extension iframe").nth(1).element_handle().content_frame()
    second.wait_for_selector("#count:not([hidden])")
    text = add_note(frame)
    assert text not in second.inner_text("main")
    assert second.evaluate("() => runner.ready.then((r) => r.path)") == "/customers/second"
