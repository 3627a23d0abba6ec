"""Drives the demo over HTTP as a browser would, and says what it saw."""

import http.client
import json
import re
from collections import namedtuple
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

Answer = namedtuple("Answer", "status headers body")

# What a browser adds to a request that a page of the same origin makes, and to one of another.
OWN = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
FOREIGN = {**OWN, "Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"}
FRAME = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
JSON = {"Content-Type": "application/json"}


class Wrong(Exception):
    """The demo did something else than it should."""


class Browser:
    """One browser: it keeps cookies and does not follow redirects."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.cookies = {}

    def ask(self, method, path, headers=None, body=None):
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        head = {**({"Cookie": cookie} if cookie else {}), **(headers or {})}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, path, body, head)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        finally:
            connection.close()
        for line in answer.headers.get_all("Set-Cookie", ()):
            self.cookies |= {name: m.value for name, m in SimpleCookie(line).items()}
        return answer


def drive(host, port, greeting, backend="wasm"):
    """Walk through the demo; answer whether everything was as it should be."""
    print(f"Checking http://{host}:{port}")
    browser = Browser(host, port)
    try:
        sign_in(browser)
        see_page(browser)
        place = find_extension(browser)
        see_panel(browser, place)
        use_panel(browser, place["api"], greeting, backend)
        try_forbidden(browser, place)
        see_health(browser, backend)
    except (Wrong, OSError, ValueError, KeyError, http.client.HTTPException) as exc:
        print(f"  WRONG  {type(exc).__name__}: {exc}")
        return False
    print("All as it should be.")
    return True


def expect(browser, what, status, method, path, headers=None, body=None):
    """Ask, print one line of what came, and insist on the status."""
    answer = browser.ask(method, path, headers, body)
    short = path if len(path) <= 48 else f"{path[:45]}…"
    print(f"  {answer.status}  {method:6} {short:48} {what}", flush=True)
    if answer.status != status:
        raise Wrong(f"{method} {path}: {status} expected; {answer.body[:300]!r}")
    return answer


def insist(fact, text):
    if not fact:
        raise Wrong(text)


def sign_in(browser):
    expect(browser, "without a session: to the sign-in page", 302, "GET", "/")
    page = expect(browser, "the sign-in page", 200, "GET", "/login").body.decode()
    form = {
        "csrf": re.search(r'name="csrf" value="([^"]+)"', page)[1],
        "email": "mara@fernhill.example",
        "password": re.search(r"password <code>([^<]+)", page)[1],
    }
    head = {"Content-Type": "application/x-www-form-urlencoded"}
    expect(browser, "signed in; a cookie", 302, "POST", "/login", head, urlencode(form))


def see_page(browser):
    page = expect(browser, "the application's page", 200, "GET", "/").body.decode()
    insist('<runner-extension extension="demo.notes"' in page, "the page shows no extension")
    expect(browser, "its JSON route", 200, "GET", "/api/orders")
    script = expect(browser, "the host page's script", 200, "GET", "/runner/bridge.js")
    insist("javascript" in script.headers["Content-Type"], "bridge.js is not JavaScript")


def find_extension(browser):
    path = "/runner/extensions/demo.notes"
    place = json.loads(expect(browser, "where the extension is", 200, "GET", path, OWN).body)
    insist("allow-same-origin" not in place["sandbox"], "the frame would not be sandboxed")
    # With an absolute RUNNER_PUBLIC_BASE it is an absolute URL, to this very server.
    return place | {"ui": urlsplit(place["ui"]).path}


def see_panel(browser, place):
    page = expect(browser, "its page, isolated", 200, "GET", place["ui"], FRAME)
    policy = page.headers["Content-Security-Policy"].split()
    insist(policy[0] == "sandbox", "the page is not sandboxed")
    insist("allow-same-origin" not in policy, "the sandbox has a hole: allow-same-origin")
    insist(page.headers["X-Content-Type-Options"] == "nosniff", "nosniff is missing")
    insist("immutable" in page.headers["Cache-Control"], "the file is not cached for ever")
    # From a sandboxed page, whose origin is opaque, everything is cross-site, and has no cookies.
    anonymous = Browser(browser.host, browser.port)
    for name in re.findall(r'<script src="([^"]+)"', page.body.decode()):
        url = urljoin(place["ui"], name)
        expect(anonymous, "its script", 200, "GET", url, {"Sec-Fetch-Site": "cross-site"})


def use_panel(browser, api, greeting, backend):
    notes = f"{api}/notes?customer=greenway"
    first = expect(browser, "the handler's answer", 200, "GET", notes, OWN)
    insist(first.headers["X-Runner-Backend"] == backend, f"it is not from {backend}")
    before = json.loads(first.body)
    insist(before["greeting"] == greeting, f"greeting {before['greeting']!r}, not {greeting!r}")
    body = json.dumps({"text": "Grüße from ./scripts/demo --check"})
    head = {**OWN, **JSON}
    added = expect(browser, "a note is stored", 200, "POST", notes, head, body.encode())
    note = json.loads(added.body)["note"]
    after = json.loads(expect(browser, "and listed", 200, "GET", notes, OWN).body)
    insist(after["notes"][0] == note, "the note is not in the list")
    insist(note["author"] == "Mara Lindqvist", f"the author is {note['author']!r}")
    gone = f"{api}/notes/{note['id']}?customer=greenway"
    expect(browser, "and deleted again", 200, "DELETE", gone, OWN)
    left = json.loads(expect(browser, "nothing is left of it", 200, "GET", notes, OWN).body)
    insist(left["notes"] == before["notes"], "the note is still there")
    print(f"         {before['greeting']}, {before['user']['name']}: {left['count']} notes")
    print(f"         from the backend {first.headers['X-Runner-Backend']}")


def try_forbidden(browser, place):
    notes, body = f"{place['api']}/notes", b'{"text": "forged"}'
    nobody = Browser(browser.host, browser.port)
    expect(nobody, "refused: nobody is signed in", 401, "GET", notes, OWN)
    expect(browser, "refused: from another site", 403, "POST", notes, {**FOREIGN, **JSON}, body)
    expect(browser, "refused: from nobody knows where", 403, "POST", notes, JSON, body)
    worker = {**OWN, "Sec-Fetch-Dest": "script"}
    script = urljoin(place["ui"], "app.js")
    expect(browser, "refused: its code into our page", 403, "GET", script, worker)
    expect(
        browser,
        "refused: a way out of its folder",
        400,
        "GET",
        urljoin(place["ui"], "x/") + "%2e%2e/manifest.json",
        FRAME,
    )


def see_health(browser, backend):
    health = json.loads(expect(browser, "health", 200, "GET", "/runner/healthz").body)
    insist(health["status"] == "ok", f"health: {health}")
    insist(health["backend"] == backend, f"backend: {health}")
