"""`new`, `build` and `pack`: for those who write extensions."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from runnerwsgi import bundles
from runnerwsgi.errors import ConfigurationError
from runnerwsgi.settings import Settings

from . import output
from .build import Built, build_folder, read_manifest
from .command import Command, Group, json_option, wants_json
from .templates import TEMPLATES, render

_NAME = re.compile(r"[a-z0-9]+(?:(?:-+|_+|\.)[a-z0-9]+)*")

folder_argument = click.argument(
    "folder", default=".", type=click.Path(path_type=Path), metavar="[FOLDER]"
)


@click.group(cls=Group)
def new() -> None:
    """Make the folder of something new."""


@new.command(cls=Command)
@click.argument("name")
@click.option(
    "--template",
    type=click.Choice(list(TEMPLATES)),
    default="python",
    show_default=True,
    help="; ".join(f"{name}: {template.summary}" for name, template in TEMPLATES.items()) + ".",
)
@click.option("--folder", type=click.Path(path_type=Path), help="Where; default: NAME.")
@json_option
def extension(name: str, template: str, folder: Path | None) -> None:
    """Make the folder of a new extension: manifest, sources, page.

    NAME is the extension's, such as `acme.notes`; without a publisher it is `demo`.
    """
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise click.BadParameter(
            f"{name!r} is not an extension's name: use lower-case letters, digits, dashes and "
            "one dot after the publisher, such as acme.notes.",
            param_hint="NAME",
        )
    full = name if "." in name else f"demo.{name}"
    target = folder or Path(name)
    _write(target, render(template, full))
    if wants_json():
        output.print_json({"extension": full, "folder": str(target), "template": template})
        return
    output.say(f"Made {target}/ with the extension {full}, {TEMPLATES[template].summary}.")
    output.say(f"Next: runnerwsgi install {target}")


def _write(folder: Path, files: dict[str, str]) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            f"{folder} exists already, and nothing is overwritten. Choose another NAME or --folder."
        )
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")


@click.command(cls=Command)
@folder_argument
@click.option("--verbose", "-v", is_flag=True, help="Show what the compiler prints.")
@json_option
def build(folder: Path, verbose: bool) -> None:
    """Compile an extension's FOLDER into dist/main.wasm.

    src/app.py is compiled with componentize-py, src/index.js (or the main file of
    package.json) with componentize-js, a .wat file with wasmtime. Nothing is compiled when
    nothing changed since the last time, and then no compiler is needed.
    """
    built = build_here(folder, verbose=verbose)
    if wants_json():
        output.print_json(_fields(built))


def build_here(folder: Path, *, verbose: bool = False) -> Built:
    """Build *folder*, and say on the terminal what is done."""
    built = build_folder(folder, Settings.from_env(os.environ).home, output.note, verbose=verbose)
    output.note(_sentence(built))
    return built


def _sentence(built: Built) -> str:
    if built.wasm is None:
        return f"Nothing to compile: {_near(built.folder)} is only a UI."
    wasm = f"{_near(built.wasm)} ({output.size(built.size)})"
    if built.action == "unchanged":
        return f"Nothing to compile: {wasm} is up to date."
    return f"Compiled {wasm} in {built.seconds:.1f} s."


def _near(path: Path) -> str:
    """A path as one would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _fields(built: Built) -> dict[str, object]:
    return {
        "folder": str(built.folder),
        "action": built.action,
        "toolchain": built.toolchain,
        "wasm": built.wasm and str(built.wasm),
        "size": built.size,
        "seconds": round(built.seconds, 3),
    }


@click.command(cls=Command)
@folder_argument
@click.option(
    "--output",
    "-o",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The bundle's file; default: NAME-VERSION.tar.zst.",
)
@json_option
def pack(folder: Path, target: Path | None) -> None:
    """Pack an extension's FOLDER into a bundle, and print its content hash.

    The same files always give the same hash. Build first: pack compiles nothing.
    """
    manifest = read_manifest(folder)
    data = bundles.pack(folder)
    target = target or Path(f"{manifest.name}-{manifest.version}.tar.zst")
    target.write_bytes(data)
    left_out = [name for name in bundles.left_out(folder) if not _is_hidden(name)]
    if wants_json():
        output.print_json(
            {
                "extension": manifest.name,
                "version": manifest.version,
                "content_hash": bundles.content_hash(data),
                "file": str(target),
                "size": len(data),
                "left_out": left_out,
            }
        )
        return
    output.say(f"{target} ({output.size(len(data))}), {manifest.name} {manifest.version}")
    output.say(bundles.content_hash(data))
    if left_out:
        output.say(f"Left out: {', '.join(left_out)}")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
