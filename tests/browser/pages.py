"""How the tests move through the shop's pages."""

import re
import secrets

MANAGER = "mara@fernhill.example"
SALES = "jonas@fernhill.example"


def sign_in(page, shop, email):
    page.goto(f"{shop}/login")
    page.fill("#email", email)
    page.fill("#password", "fernhill")
    page.press("#password", "Enter")
    page.wait_for_selector("h1:text('Dashboard')")


def open_panel(page, shop):
    page.goto(shop)
    return panel(page)


def panel(page):
    """The extension's frame, once its handler has answered."""
    frame = page.locator("runner-extension iframe").element_handle().content_frame()
    frame.wait_for_selector("#count:not([hidden])")
    return frame


def add_note(frame):
    text = f"Gate code {secrets.token_hex(4)}"
    frame.fill("#text", text)
    frame.click("#add")
    frame.wait_for_selector(f"li:has-text('{text}')")
    return text


def thrown(frame, script):
    """The name of what *script* throws in a frame, or the value that it had."""
    run = f"async () => {{ try {{ return await ({script}) }} catch (e) {{ return e.name }} }}"
    return frame.evaluate(run)


def ui_url(page, name=None):
    """The address of the extension's page, or of the file *name* beside it."""
    url = page.locator("runner-extension iframe").get_attribute("src")
    return re.sub(r"index\.html.*", name, url) if name else url


def wait_until(page, condition):
    """Wait for what *condition* says. Playwright's own polling needs eval, which pages forbid."""
    for _ in range(100):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("It did not come true within five seconds.")
