"""What the hand-written pages state as facts is what the code does."""

import json
import re

import pytest
from support import EXTENSION, Site

from docs.pages import DOCS, blocks
from runnerwsgi import bundles, headers, protocol, tar
from runnerwsgi.browser import SCRIPTS
from runnerwsgi.settings import SETTINGS

BRIDGE = SCRIPTS["bridge.js"].decode()
MIGRATION = (DOCS / "how-to" / "migrate-from-alga.md").read_text("utf-8")


def page(name):
    return (DOCS / name).read_text("utf-8")


def last_json(name):
    return json.loads([b.text for b in blocks(DOCS / name) if b.language == "json"][-1])


def javascript_list(name):
    """The strings of a constant of the bridge."""
    return re.findall(r'"([^"]+)"', re.search(rf"const {name} = \[(.*?)\]", BRIDGE, re.DOTALL)[1])


def section(text, start, stop):
    return text.partition(start)[2].partition(stop)[0]


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as site:
        yield site


def test_the_look_up_is_answered_as_shown(site):
    answer = site.send(path=f"/runner/extensions/{EXTENSION}")
    assert answer.json.keys() == last_json("reference/browser.md").keys()


def test_an_error_looks_as_shown(site):
    answer = site.send(path="/api/ext/nobodys.thing/")
    shown = last_json("reference/errors.md")
    assert answer.json == shown | {name: answer.json[name] for name in ("request_id", "backend")}
    assert answer.header("Server-Timing") is None
    assert site.call().header("Server-Timing")


def test_the_host_pages_theme_is_listed_in_full():
    listed = section(page("reference/browser.md"), "### Theme", "## The extension's page")
    assert set(re.findall(r"`(--runner-[a-z-]+|color-scheme)`", listed)) == set(
        javascript_list("THEME_TOKENS")
    )


def test_the_headers_of_a_pages_call_are_listed_in_full():
    listed = section(page("reference/browser.md"), "- `headers` may have", "Others are dropped")
    assert set(re.findall(r"`([a-z-]+)`", listed)) == set(javascript_list("REQUEST_HEADERS"))


@pytest.mark.parametrize("name", sorted(headers.REQUEST | headers.RESPONSE))
def test_a_header_that_crosses_is_named(name):
    assert f"`{name}`" in page("explanation/security.md")


@pytest.mark.parametrize("outcome", protocol.OUTCOME_ERRORS)
def test_an_outcome_is_listed_with_its_error(outcome):
    error = protocol.OUTCOME_ERRORS[outcome]
    rows = page("reference/protocol.md").splitlines()
    row = next(row for row in rows if row.startswith("| `") and f"`{outcome}`" in row)
    assert row.endswith(f"| {error.status} | `{error.code}` |")


@pytest.mark.parametrize(
    "limit",
    [
        f"{bundles.MAX_ARCHIVE_BYTES >> 20} MiB",
        f"{tar.MAX_ENTRIES:,}",
        f"{tar.MAX_DEPTH} folders",
        f"{tar.MAX_SEGMENT} bytes",
    ],
)
def test_a_limit_of_bundles_is_stated(limit):
    assert limit in section(page("reference/protocol.md"), "## 4. Bundles", "## 5.")


def first_cells(text):
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}


def test_variables_that_are_said_to_be_kept_are_settings():
    kept = first_cells(section(MIGRATION, "Kept,", "Accepted under"))
    assert kept
    assert kept <= {row.name for row in SETTINGS}


def test_older_names_are_the_aliases():
    listed = first_cells(section(MIGRATION, "Accepted under", "Not taken over"))
    assert listed == {alias for row in SETTINGS for alias in row.aliases}


def test_variables_that_are_said_to_be_gone_are_no_settings():
    gone = first_cells(section(MIGRATION, "Not taken over", "## In this order"))
    assert gone
    assert not gone & {name for row in SETTINGS for name in (row.name, *row.aliases)}
