"""`runnerwsgi knative lint`: what Knative would refuse or ignore, before it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TextIO

import click

from runnerwsgi.cli import output
from runnerwsgi.cli.command import Command, json_option, wants_json
from runnerwsgi.errors import ConfigurationError
from runnerwsgi_knative import documents

from .linter import is_domain_mapping, is_service, remarks
from .remarks import REFUSED, Remark


@click.command(cls=Command)
@click.argument("file", type=click.File(encoding="utf-8"))
@json_option
@click.pass_context
def lint(ctx: click.Context, file: TextIO) -> None:
    """Say what Knative would refuse or ignore in FILE.

    And what it would do to a runner's harm. FILE is YAML or JSON of any number of documents; - is
    standard input. Judged is what Knative allows where nobody has set it up otherwise. Exit
    status 1 when something would be refused.
    """
    found = [
        (_called(each), remarks(each))
        for each in documents.read(_text(file), file.name)
        if is_service(each) or is_domain_mapping(each)
    ]
    if not found:
        raise ConfigurationError(
            f"{file.name} has no Knative Service: one has the kind Service and the apiVersion "
            "serving.knative.dev/v1."
        )
    if wants_json():
        _print_json(found)
    else:
        _print(found)
    if any(remark.effect == REFUSED for _, listed in found for remark in listed):
        ctx.exit(1)


def _text(file: TextIO) -> str:
    try:
        return file.read()
    except UnicodeError as exc:
        raise ConfigurationError(f"{file.name} is not text in UTF-8.") from exc


def _called(document: dict[str, Any]) -> str:
    """``Service extensions/runner``."""
    metadata = document.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    name = "/".join(str(named[each]) for each in ("namespace", "name") if named.get(each))
    return f"{document['kind']} {name or 'without a name'}"


def _print_json(found: Iterable[tuple[str, list[Remark]]]) -> None:
    output.print_json(
        [{"document": name, "remarks": [asdict(each) for each in listed]} for name, listed in found]
    )


def _print(found: Iterable[tuple[str, list[Remark]]]) -> None:
    for name, listed in found:
        output.say(_line(f"{name}: {output.counted(len(listed), 'remark')}"))
        for each in listed:
            output.say(_line(f"  {each.effect} {each.place}: {each.reason}."))


def _line(text: str) -> str:
    """One line; names in a document may have several, which would pass for ours."""
    return output.visible(text).replace("\n", r"\n")
