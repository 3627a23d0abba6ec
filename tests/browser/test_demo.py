"""The demo in a real browser: what a customer sees, and what the extension's page cannot do."""

import pytest

from browser.pages import SALES, add_note, open_panel, panel, sign_in, thrown, ui_url, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ACCENT = "getComputedStyle(document.documentElement).getPropertyValue('--runner-accent').trim()"


def test_the_panel_shows_its_configuration_and_who_is_signed_in(frame):
    assert frame.inner_text("#greeting") == "Welcome back, Mara."
    assert frame.inner_text("#user") == "Mara Lindqvist · admin"


def test_a_note_is_there_after_a_reload(page, frame):
    text = add_note(frame)
    page.reload()
    assert text in panel(page).inner_text("#notes")


def test_notes_belong_to_the_customer_of_the_path(page, frame):
    text = add_note(frame)
    page.click("text=Orto Botanico Rossi")
    page.wait_for_selector("h2:text('Orto Botanico Rossi')")
    assert text not in panel(page).inner_text("main")


def test_a_manager_deletes_a_note(frame):
    text = add_note(frame)
    frame.click(f"li:has-text('{text}') .delete")
    frame.wait_for_selector("#message:text('Note deleted.')")
    assert text not in frame.inner_text("#notes")


def test_sales_can_neither_see_the_button_nor_make_its_call(visitor, shop):
    sign_in(visitor, shop, SALES)
    frame = panel(visitor)
    add_note(frame)
    assert frame.query_selector_all("li .delete:not([hidden])") == []
    script = "() => runner.fetch('/notes/1-a', {method: 'DELETE'}).then((r) => r.status)"
    assert frame.evaluate(script) == 403


def test_markup_in_a_note_is_text(frame):
    frame.fill("#text", "<img src=x onerror=alert(1)>")
    frame.click("#add")
    frame.wait_for_selector("#message:text('Note added.')")
    assert "<img src=x onerror=alert(1)>" in frame.inner_text("#notes")
    assert frame.query_selector("#notes img") is None


@pytest.mark.parametrize("width", [1280, 390], ids=["in sight", "below the fold of a telephone"])
def test_the_frame_is_as_high_as_its_page(page, shop, width):
    page.set_viewport_size({"width": width, "height": 700})
    frame = open_panel(page, shop)
    element = page.locator("runner-extension iframe")
    needed = frame.evaluate("() => document.documentElement.getBoundingClientRect().height")
    assert needed > 200
    wait_until(page, lambda: element.bounding_box()["height"] >= needed)


def test_the_panel_wears_the_theme_of_the_page_also_when_it_turns_dark(page, frame):
    light = page.evaluate(ACCENT)
    assert frame.evaluate(ACCENT) == light != ""
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ACCENT)
    assert dark != light
    frame.wait_for_function(f"(accent) => {ACCENT} === accent", arg=dark)


def test_the_pages_of_the_application_answer_as_before(page, shop):
    page.goto(f"{shop}/orders")
    assert page.locator("tbody tr").count() == 9
    assert len(page.request.get(f"{shop}/api/orders?status=late").json()["orders"]) == 1


def test_neither_page_reports_an_error(page, shop):
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else 0)
    page.on("pageerror", lambda error: said.append(str(error)))
    add_note(open_panel(page, shop))
    assert said == []


# The sandbox. The frame's attribute protects the frame, the answer's header the address itself:
# each has its own tests, so that neither can hide that the other is missing.

STATE_OF_THE_ORIGIN = {
    "cookies": "document.cookie.length",
    "local storage": "localStorage.length",
    "session storage": "sessionStorage.length",
    "databases": "indexedDB.databases().then((all) => all.length)",
    "caches": "caches.keys().then((keys) => keys.length)",
    "service workers": "navigator.serviceWorker.getRegistrations().then((all) => all.length)",
}


def reached(frame):
    """What a document reads of its origin's state. It gets the names of errors where it may not."""
    answers = {name: thrown(frame, script) for name, script in STATE_OF_THE_ORIGIN.items()}
    return {name: answer for name, answer in answers.items() if isinstance(answer, int)}


def test_the_frame_has_the_sandbox_and_nothing_beyond_scripts(page, frame):
    element = page.locator("runner-extension iframe")
    assert element.get_attribute("sandbox").split() == ["allow-scripts"]
    assert element.get_attribute("referrerpolicy") == "no-referrer"
    assert element.get_attribute("title") == "Notes about Greenway Garden Centre"


@pytest.mark.parametrize("name", ["index.html", "app.js", "style.css"])
def test_every_file_of_the_extension_leaves_with_the_sandbox(page, frame, name):
    answer = page.request.get(ui_url(page, name))
    assert answer.status == 200
    assert answer.headers["content-security-policy"].split(";")[0] == "sandbox allow-scripts"
    assert "set-cookie" not in answer.headers


def test_the_frame_has_an_origin_of_its_own_and_no_state(frame):
    assert frame.evaluate("self.origin") == "null"
    assert reached(frame) == {}


def test_opened_in_a_tab_it_still_has_an_origin_of_its_own_and_no_state(page, frame):
    page.goto(ui_url(page))
    assert page.evaluate("self.origin") == "null"
    assert reached(page) == {}


def test_the_page_of_the_host_has_all_of_that(page, shop, frame):
    assert page.evaluate("self.origin") == shop
    assert reached(page).keys() == STATE_OF_THE_ORIGIN.keys()


def test_opened_in_a_tab_it_says_where_it_belongs(page, frame):
    page.goto(ui_url(page))
    page.wait_for_selector("#message:text('works inside its host page')")


def test_the_frame_reaches_neither_the_page_nor_the_application(frame):
    assert thrown(frame, "parent.document.title") == "SecurityError"
    assert thrown(frame, "(top.location = 'about:blank', 'left')") == "SecurityError"
    assert thrown(frame, "fetch('/api/orders').then((r) => r.status)") == "TypeError"


def test_the_page_of_the_host_does_not_run_code_of_the_extension(page, frame):
    script = """(url) => new Promise((done) => {
      const script = document.createElement('script');
      script.onload = () => done('ran');
      script.onerror = () => done('refused');
      script.src = url;
      document.head.append(script);
    })"""
    assert page.evaluate(script, "/runner/bridge.js") == "ran"
    assert page.evaluate(script, ui_url(page, "app.js")) == "refused"


def test_the_extension_cannot_become_a_service_worker(page, frame):
    url = ui_url(page, "app.js")
    register = f"navigator.serviceWorker.register('{url}').then(() => 'registered')"
    assert thrown(page, register) != "registered"
    assert reached(page)["service workers"] == 0
