"""The files of a new extension, by template.

The sources carry `.txt` at the end, so that no tool takes a template for code of ours. In
them `__NAME__` is the extension's name, and `__TITLE__` what its page is headed with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from runnerwsgi import wit


@dataclass(frozen=True, slots=True)
class Template:
    """What kind of extension; ``runtime`` is empty for one that is only a UI."""

    runtime: str
    source: str
    summary: str


TEMPLATES: Mapping[str, Template] = {
    "python": Template("wasm-py@1", "src/app.py", "a page and a handler in Python"),
    "javascript": Template("wasm-js@1", "src/index.js", "a page and a handler in JavaScript"),
    "wat": Template("wasm@1", "src/main.wat", "a page and a handler in WebAssembly text"),
    "ui": Template("", "", "a page and no handler"),
}

_PAGE = {"ui/index.html": "index.html.txt", "ui/style.css": "style.css.txt"}
_ALWAYS = {"README.md": "README.md.txt", ".gitignore": "gitignore.txt"}


def render(template: str, name: str) -> dict[str, str]:
    """The files of a new extension: text by relative path.

    Args:
        template: a key of :data:`TEMPLATES`.
        name: the extension's name, such as ``demo.notes``.
    """
    chosen = TEMPLATES[template]
    script = "panel.js.txt" if chosen.runtime else "page.js.txt"
    texts = {path: _read(file) for path, file in (_ALWAYS | _PAGE | {"ui/app.js": script}).items()}
    if chosen.source:
        texts[chosen.source] = _source(chosen.source)
    title = name.rpartition(".")[2].replace("-", " ").replace("_", " ").capitalize()
    values = {"__NAME__": name, "__TITLE__": title, "__TRY__": _try(chosen, name)}
    rendered = {path: _fill(text, values) for path, text in texts.items()}
    return {"manifest.json": _manifest(chosen, name), **rendered}


def _source(path: str) -> str:
    # The example of the contract is the template: it is tested as one.
    return wit.ECHO.read_text("utf-8") if path.endswith(".wat") else _read(f"{path[4:]}.txt")


def _read(file: str) -> str:
    return files(__name__).joinpath(file).read_text("utf-8")


def _fill(text: str, values: Mapping[str, str]) -> str:
    for word, value in values.items():
        text = text.replace(word, value)
    return text


def _try(chosen: Template, name: str) -> str:
    if chosen.runtime:
        return f"    runnerwsgi execute {name} GET /hello   # calls its handler"
    return "    runnerwsgi serve MODULE:APP   # serves an application with it"


def _manifest(chosen: Template, name: str) -> str:
    manifest: dict[str, Any] = {
        "name": name,
        "publisher": name.partition(".")[0],
        "version": "0.1.0",
    }
    if chosen.runtime:
        manifest["runtime"] = chosen.runtime
        manifest["capabilities"] = ["cap:context.read", "cap:log.emit", "cap:user.read"]
        manifest["api"] = {"endpoints": [{"method": "GET", "path": "/hello", "access": "user"}]}
    manifest["ui"] = {"type": "iframe", "entry": "ui/index.html"}
    return json.dumps(manifest, indent=2) + "\n"
