"""The documentation is complete, builds without a warning, and its examples are real Python."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import runnerwsgi_docker as docker
import runnerwsgi_wasm as wasm

from docs.pages import DOCS, PAGES, ROOT, Block, anchors, blocks, headings
from runnerwsgi import errors, hookspecs, manifest
from runnerwsgi.capabilities import INTERFACES
from runnerwsgi.cli import templates
from runnerwsgi.settings import SETTINGS

REFERENCE = DOCS / "reference"
PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
HOOKS = [name for name in vars(hookspecs) if name.startswith("runner_")]
CODES = sorted({cls.code for cls in errors.all_errors()})


def commands(group, path="runnerwsgi"):
    """Every command's full name, sub-commands included."""
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield f"{path} {name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


@pytest.mark.parametrize(
    "row", [*SETTINGS, *wasm.SETTINGS, *docker.SETTINGS], ids=lambda row: row.name
)
def test_every_setting_has_a_heading_and_its_meaning(row):
    assert row.name.lower() in anchors(REFERENCE / "settings.md")
    assert row.meaning in (REFERENCE / "settings.md").read_text("utf-8")


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_heading(name):
    assert name in anchors(REFERENCE / "hooks.md")


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_says_when_it_is_called_and_shows_an_example_that_compiles(name):
    docstring = inspect.getdoc(getattr(hookspecs, name))
    assert re.search(r"\b(Called|Asked)\b", docstring)
    example = docstring.partition("Example::\n")[2]
    compile(inspect.cleandoc("\n" + example), name, "exec")


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_has_a_heading_and_a_usual_cause(code):
    assert code in anchors(REFERENCE / "errors.md")
    assert f"| `{code}` |" in (DOCS / "troubleshooting.md").read_text("utf-8")


def test_every_command_has_a_heading():
    from runnerwsgi.cli import cli

    found = list(commands(cli))
    assert found
    assert set(found) <= set(headings(REFERENCE / "commands.md"))


@pytest.mark.parametrize("interface", INTERFACES)
def test_every_interface_of_a_guest_is_listed_with_its_capability(interface):
    text = (REFERENCE / "protocol.md").read_text("utf-8")
    assert f"`{interface}`" in text
    assert f"`{INTERFACES[interface].capability}`" in text


def schema_properties():
    schema = json.loads(Path(manifest.__file__).with_name("manifest.schema.json").read_text())
    endpoint = schema["properties"]["api"]["properties"]["endpoints"]["items"]["properties"]
    ui = [f"ui.{name}" for name in schema["properties"]["ui"]["properties"]]
    return sorted({*schema["properties"], *ui, *endpoint} - {"ui", "api"})


@pytest.mark.parametrize("name", schema_properties())
def test_every_field_of_a_manifest_has_a_row(name):
    assert f"| `{name}` |" in (REFERENCE / "manifest.md").read_text("utf-8")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_python_example_compiles(block: Block):
    source = block.text
    # A method alone is how hooks are shown; `await` and `return` need a function around them.
    compile(source, str(block), "exec")


def test_the_generated_pages_are_fresh():
    check = [sys.executable, ROOT / "scripts" / "reference.py", "--check"]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_site_builds_without_a_warning(site):
    assert (site / "index.html").is_file()
    assert (site / "reference" / "settings" / "index.html").is_file()


def test_the_site_loads_nothing_from_elsewhere(site):
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]*\ssrc=\"(?:https?:)?//|<link[^>]*href=\"(?:https?:)?//"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES) // 2
    assert not [str(page) for page in pages if loads.search(page.read_text("utf-8"))]


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8")))
    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_the_readmes_commands_fit_the_template():
    files = templates.render("python", "demo.hello")
    route = json.loads(files["manifest.json"])["api"]["endpoints"][0]
    text = next(block.text for block in blocks(ROOT / "README.md") if "new extension" in block.text)
    assert f"execute demo.hello {route['method']} {route['path']}\n" in text
    assert re.search(r"pip install .*\bcomponentize-py\b", text)


@pytest.mark.parametrize(
    "target",
    re.findall(r"\]\((docs/[^)#]+|[A-Z]+\.md|LICENSE)", (ROOT / "README.md").read_text("utf-8")),
)
def test_the_readme_links_to_what_is_there(target):
    assert (ROOT / target).is_file()
