"""Write the reference pages that come from code; `--check` fails when they are stale."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

import runnerwsgi
from runnerwsgi import discovery, errors, hookspecs
from runnerwsgi import settings as settings_module

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
NOTICE = "<!-- Written by scripts/reference. Change the code it is made from, then run it. -->"

# Modules that others may import, beside `runnerwsgi` itself, and what each is for.
MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "runnerwsgi": ("What an application needs.", ()),
    "runnerwsgi.protocol": ("The values that cross between a gateway and a backend.", ()),
    "runnerwsgi.capabilities": ("For plugins that provide host functions to guests.", ("Call",)),
    "runnerwsgi.settings": (
        "For plugins with settings of their own.",
        ("Setting", "read", "text", "integer", "choice", "matching", "path"),
    ),
    "runnerwsgi.bundles": (
        "Pack, verify and keep bundles.",
        ("pack", "content_hash", "read_bundle", "BundleStore", "StoredBundle", "UnpackedBundle"),
    ),
    "runnerwsgi.stores": (
        "Where bundles come from.",
        ("open_store", "Store", "root_of", "is_remote"),
    ),
    "runnerwsgi.manifest": (
        "What an extension says about itself.",
        ("Manifest", "Endpoint", "Ui"),
    ),
    "runnerwsgi.cli.command": (
        "For plugins with commands of their own: each is made with `group.command()`.",
        ("Command", "json_option", "wants_json", "quiet_logs"),
    ),
    "runnerwsgi.cli.output": (
        "What commands print. What is for programs goes to stdout, all the rest to stderr.",
        (
            *("say", "note", "warn", "print_json", "print_table", "print_drawn", "working"),
            *("visible", "counted"),
        ),
    ),
    "runnerwsgi.client": (
        "For backends whose runner is elsewhere.",
        ("RunnerClient", "RunnerState", "LastAnswer", "kind_of", "parse_base"),
    ),
    "runnerwsgi.upstream": (
        "For backends with something between the gateway and the runner.",
        ("Route", "RoutedUrl", "Upstream", "Answer"),
    ),
    "runnerwsgi.retries": ("For backends that try again what failed.", ("Retries", "Breaker")),
    "runnerwsgi.latest": ("For what is looked at in the background, such as health.", ("Latest",)),
    "runnerwsgi.origins": (
        "Addresses, read in one way.",
        ("Origin", "HttpUrl", "parse_http_url"),
    ),
    "runnerwsgi.service_token": ("The secret that gateway and runner share.", ("ServiceToken",)),
    "runnerwsgi.canary": ("A tiny extension that runners of this project have.", ("call", "check")),
    "runnerwsgi.testing": ("The contract kit for authors of backends.", ()),
}


# --- docstrings to Markdown -----------------------------------------------------------------

_ROLE = re.compile(r":(?P<kind>[a-z]+):`~?(?P<name>[^`]+)`")
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):")
_ITEM = re.compile(r"(?P<name>[\w*, ]+): (?P<text>.*)", re.DOTALL)
_TITLES = {"Args": "Arguments", "Yields": "Returns"}


def inline(text: str) -> str:
    """Code and cross-references of one paragraph."""
    return _ROLE.sub(reference, text).replace("``", "`")


def reference(found: re.Match[str]) -> str:
    name = found["name"] if found["kind"] == "mod" else found["name"].rpartition(".")[2]
    return f"`{name}`"


def markdown(docstring: str) -> str:
    """A Google-style docstring as Markdown."""
    blocks = re.split(r"\n(?=\S)", inspect.cleandoc(docstring))
    return "\n\n".join(part for block in merged(blocks) for part in render(block)).strip()


def merged(blocks: list[str]) -> Iterator[str]:
    """Join a paragraph's lines; a blank line or the head of a section begins something new."""
    paragraph = ""
    for block in blocks:
        glued = paragraph and not paragraph.endswith("\n") and "\n " not in paragraph
        if glued and not _SECTION.match(block):
            paragraph += "\n" + block
        else:
            if paragraph:
                yield paragraph
            paragraph = block
    yield paragraph


def render(block: str) -> Iterator[str]:
    """One paragraph, section or example."""
    if found := _SECTION.match(block):
        yield f"**{_TITLES.get(found[1], found[1])}**"
        yield listing(textwrap.dedent(block.partition("\n")[2]))
    elif "::\n" in block:
        head, _, code = block.partition("::\n")
        if head.strip() not in ("", "Example"):
            yield inline(f"{head.rstrip()}:")
        yield fence(code)
    else:
        yield inline(block.rstrip())


def listing(text: str) -> str:
    """The items of a section."""
    items = [" ".join(item.split()) for item in re.split(r"\n(?=\S)", text.strip())]
    if not all(_ITEM.fullmatch(item) for item in items):
        return inline(" ".join(items))
    pairs = [_ITEM.fullmatch(item) for item in items]
    return "\n".join(f"- `{pair['name']}`: {inline(pair['text'])}" for pair in pairs if pair)


def fence(code: str) -> str:
    return "```python\n" + textwrap.dedent(code.strip("\n")).rstrip() + "\n```"


def first_sentence(docstring: str) -> str:
    return inline(inspect.cleandoc(docstring).partition("\n\n")[0].replace("\n", " "))


# --- pages ----------------------------------------------------------------------------------


def page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", NOTICE, *(part.strip() for part in parts if part)]) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(head)]
    lines = [cells[0], ["---"] * len(cells[0]), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def all_settings() -> list[settings_module.Setting]:
    """The shared table, then those of the plugins that ship with us."""
    rows = list(settings_module.SETTINGS)
    for point in entry_points(group=discovery.GROUP):
        if point.dist and point.dist.name == "runnerwsgi":
            rows += getattr(importlib.import_module(point.module), "SETTINGS", ())
    return rows


def accepted(row: settings_module.Setting) -> str:
    """What a setting takes, in the words that a wrong value gets."""
    for wrong in ("\x01", "wrong value"):
        try:
            row.parse(wrong)
        except ValueError as advice:
            return str(advice).removeprefix("use ")
    return "a path" if row.parse is settings_module.path else "any text"


def settings_page() -> str:
    rows = all_settings()
    matrix = table(
        ("variable", "default", "meaning"),
        (
            (f"[`{row.name}`](#{row.name.lower()})", code(row.default_text), cell(row.meaning))
            for row in rows
        ),
    )
    return page("Settings", SETTINGS_INTRO, matrix, *(setting(row) for row in rows))


def setting(row: settings_module.Setting) -> str:
    facts = [f"Default: {code(row.default_text)}. Takes {accepted(row)}."]
    if row.aliases:
        facts.append(f"Older name, accepted with a warning: {', '.join(map(code, row.aliases))}.")
    if row.owner != "core":
        facts.append(f"Read by the plugin `{row.owner}`.")
    return "\n\n".join([f"## `{row.name}`", row.meaning, " ".join(facts)])


def code(text: str) -> str:
    return text if "`" in text or " " in text or text in ("none", "nothing") else f"`{text}`"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


SETTINGS_INTRO = """
Environment variables, read once at start. `RunnerMiddleware.from_env`, `Gateway.from_env` and every
command read them; constructors that take values do not. All faults are reported together, each
naming its variable. A variable that is set to nothing counts as not set; an unknown `RUNNER_*`
variable is warned about, with the nearest known name. `runnerwsgi env` shows every setting, its
value and where the value came from.

Booleans are `1`, `true`, `yes`, `on` or `0`, `false`, `no`, `off`. Lists are separated by commas.
A plugin's own settings are named `RUNNER_<NAME>_*`.
"""


def hooks() -> list[tuple[str, Callable[..., Any]]]:
    named = inspect.getmembers(hookspecs, inspect.isfunction)
    found = [(name, hook) for name, hook in named if name.startswith("runner_")]
    return sorted(found, key=lambda pair: pair[1].__code__.co_firstlineno)


def hooks_page() -> str:
    parts = [
        f"## {code(name)}\n\n{signature(name, hook)}\n\n{markdown(hook.__doc__ or '')}"
        for name, hook in hooks()
    ]
    return page("Hooks", HOOKS_INTRO, *parts)


HOOKS_INTRO = """
A plugin is an object with some of these methods, each marked with `@hookimpl`. Its entry point, in
the group `runnerwsgi`, names a callable that takes the environment and returns the object:

```toml
[project.entry-points.runnerwsgi]
echo = "runnerwsgi_echo:plugin"
```

`RUNNER_BACKEND` names the one plugin that runs extensions: it implements `runner_execute`,
`runner_resolve_ui_url` and `runner_health`. `RUNNER_PLUGINS` names further ones. Those may
authorise calls, provide capabilities, or observe the backend's hooks. Only plugins that are named
are imported.

An observer is a wrapper: it yields to the backend, and gives back what came of the call.

```python
class Audit:
    name = "audit"

    @hookimpl(wrapper=True)
    def runner_execute(self, request):
        response = yield  # a backend that raises raises here
        log.info("%s: %s", request.context.extension_id, response.outcome)
        return response
```

[Write a backend](../how-to/write-a-backend.md) and
[provide a capability](../how-to/provide-a-capability.md) show whole plugins.
"""


def errors_page() -> str:
    by_code: dict[str, list[type[errors.RunnerError]]] = {}
    for cls in errors.all_errors():
        by_code.setdefault(cls.code, []).append(cls)
    ordered = sorted(by_code.items(), key=lambda pair: (pair[1][0].status, pair[0]))
    matrix = table(
        ("code", "status", "title"),
        ((f"[`{name}`](#{name})", str(group[0].status), group[0].title) for name, group in ordered),
    )
    return page("Error codes", ERRORS_INTRO, matrix, *(error(*pair) for pair in ordered))


def error(name: str, group: list[type[errors.RunnerError]]) -> str:
    meanings = "\n".join(
        f"- `{cls.__name__}`: {first_sentence(cls.__doc__ or '')}" for cls in group
    )
    head = f"## `{name}`\n\nStatus {group[0].status}, “{group[0].title}”."
    return f"{head} What the client is told: “{group[-1].advice}”\n\n{meanings}"


ERRORS_INTRO = """
Errors of the gateway are answered as `application/problem+json`
([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)):

```json
{
  "type": "urn:runnerwsgi:error:not-found",
  "title": "Not found",
  "status": 404,
  "detail": "There is no such extension, version or file here.",
  "code": "not-found",
  "request_id": "0b0f6f9e3c1d4c5f",
  "backend": "wasm"
}
```

Switch on `code`: it does not change. `detail` never contains text of a backend or an extension;
the log has it, under the same `request_id`. Answers with status 429 or 503 that are worth another
try carry `Retry-After`. [Troubleshooting](../troubleshooting.md#by-error-code) has the usual cause
of each code.

An answer of 4xx or 5xx with a `Server-Timing` header is the extension's own; the gateway's errors
have none.

In Python, each code belongs to one or more classes of `runnerwsgi.errors`, all of them
`RunnerError`. Every class carries `status`, `code`, `title`, `advice` and `detail`.
"""


def python_page() -> str:
    return page("Python", PYTHON_INTRO, *(module(*pair) for pair in MODULES.items()))


PYTHON_INTRO = """
Everything on this page may be imported by applications and plugins. Other modules may change
without notice. The errors are on [a page of their own](errors.md), and so are
[the hooks](hooks.md).
"""


def module(name: str, about: tuple[str, tuple[str, ...]]) -> str:
    purpose, chosen = about
    things = [(key, thing) for key, thing in public_names(name, chosen) if documented(thing)]
    if name != "runnerwsgi":  # what the package itself offers is described there
        things = [(key, thing) for key, thing in things if key not in runnerwsgi.__all__]
    parts = [public(key, thing) for key, thing in things]
    return "\n\n".join([f"## {code(name)}", purpose, *parts])


def public_names(name: str, chosen: tuple[str, ...]) -> list[tuple[str, Any]]:
    """What is chosen of a module; else its `__all__`; else what it defines itself."""
    found = importlib.import_module(name)
    if names := chosen or getattr(found, "__all__", ()):
        return [(key, getattr(found, key)) for key in names]
    return [
        (key, thing)
        for key, thing in vars(found).items()
        if not key.startswith("_") and getattr(thing, "__module__", None) == name
    ]


def documented(thing: object) -> bool:
    return (inspect.isclass(thing) or inspect.isroutine(thing)) and bool(inspect.getdoc(thing))


def public(name: str, thing: Any) -> str:
    parts = [f"### {code(name)}", signature(name, thing), markdown(inspect.getdoc(thing) or "")]
    if inspect.isclass(thing):
        parts += [part for key, value in vars(thing).items() for part in member(name, key, value)]
    return "\n\n".join(parts)


def member(owner: str, name: str, value: Any) -> Iterator[str]:
    """A public method or property that says something of itself."""
    function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    hidden = name.startswith(("_", "test_"))
    if hidden or not inspect.isfunction(function) or not function.__doc__:
        return
    yield f"#### {code(f'{owner}.{name}')}"
    if not isinstance(value, property):
        yield signature(f"{owner}.{name}", function)
    yield markdown(function.__doc__)


def signature(name: str, thing: Any) -> str:
    """The call as one writes it, without `self`, folded where it is long."""
    if getattr(thing, "_is_protocol", False):  # nobody calls one
        return f"```text\nclass {name}(Protocol)\n```"
    found = inspect.signature(thing)
    kept = [item for item in found.parameters.values() if item.name not in ("self", "cls")]
    parts = [*parameters(kept)]
    answer = "" if inspect.isclass(thing) else f" -> {annotation(found.return_annotation)}"
    shown = f"{name}({', '.join(parts)}){answer}"
    if len(shown) > 80:
        shown = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){answer}"
    return f"```text\n{shown}\n```"


def parameters(items: Iterable[inspect.Parameter]) -> Iterator[str]:
    star = False
    for item in items:
        if item.kind is item.KEYWORD_ONLY and not star:
            yield "*"
        star = star or item.kind in (item.KEYWORD_ONLY, item.VAR_POSITIONAL)
        stars = {item.VAR_POSITIONAL: "*", item.VAR_KEYWORD: "**"}.get(item.kind, "")
        yield f"{stars}{item.name}: {annotation(item.annotation)}{default(item.default)}"


def annotation(found: Any) -> str:
    return found if isinstance(found, str) else inspect.formatannotation(found)


def default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    # A default that a factory makes, and the address of an object, say nothing.
    plain = value is None or isinstance(value, str | int | float | tuple)
    return f" = {value!r}" if plain else " = …"


def commands_page() -> str:
    from runnerwsgi.cli import cli

    context = click.Context(cli, info_name="runnerwsgi")
    groups = filter(None, map(commands_of, shipped_plugins()))
    plugins = (command_parts(group, click.Context(group, context, group.name)) for group in groups)
    parts = [*command_parts(cli, context), *(part for parts in plugins for part in parts)]
    return page("Commands", COMMANDS_INTRO, *parts)


def shipped_plugins() -> list[str]:
    """Entry-point names of the plugins that ship with us."""
    points = entry_points(group=discovery.GROUP)
    return sorted(one.name for one in points if one.dist and one.dist.name == "runnerwsgi")


def commands_of(name: str) -> click.Group | None:
    """A plugin's commands; None where it has none."""
    from runnerwsgi.cli import plugins
    from runnerwsgi.errors import ConfigurationError

    try:
        return plugins.commands_of(name)
    except ConfigurationError:
        return None


def command_parts(command: click.Command, context: click.Context) -> Iterator[str]:
    yield described(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found and not found.hidden:
                yield from command_parts(found, click.Context(found, context, name))


def described(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    help_text = inline(inspect.cleandoc(command.help or ""))
    parts = [f"## `{context.command_path}`", help_text, f"```text\n{usage}\n```"]
    if rows := list(options(command, context)):
        parts.append(table(("option", "meaning"), rows))
    return "\n\n".join(parts)


def options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for item in command.params:
        record = item.get_help_record(context)
        if isinstance(item, click.Option) and record:
            # A bar would end the table's cell.
            yield f"`{record[0].replace('|', ', ')}`", cell(inline(record[1]))


COMMANDS_INTRO = """
`runnerwsgi COMMAND --help` prints the same. Exit status: 0 it worked, 1 it failed (one line on
standard error says what to do), 2 the command was used wrongly. With `--json`, standard output is
one JSON document and nothing else.
"""

PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "errors.md": errors_page,
    "hooks.md": hooks_page,
    "python.md": python_page,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    stale = [name for name, make in PAGES.items() if settle(FOLDER / name, make(), check)]
    if stale and check:
        print(f"stale: {', '.join(stale)}. Run scripts/reference and commit what it writes.")
    return 1 if stale and check else 0


def settle(file: Path, text: str, check: bool) -> bool:
    """Whether *file* was stale; it is written unless this is only a check."""
    stale = not file.exists() or file.read_text("utf-8") != text
    if stale and not check:
        file.write_text(text, "utf-8")
        print(f"wrote {file.relative_to(ROOT)}")
    return stale


if __name__ == "__main__":
    sys.exit(main())
