"""The terms of an install: configuration, grants and limits, and what to think of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runnerwsgi import capabilities
from runnerwsgi.errors import ConfigurationError
from runnerwsgi.headers import SANDBOX_OPTIONS
from runnerwsgi.manifest import DEFAULT_GRANTS
from runnerwsgi.origins import parse_egress_entry

from . import output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runnerwsgi.installs import Install
    from runnerwsgi.manifest import Manifest
    from runnerwsgi.origins import EgressEntry
    from runnerwsgi.settings import Settings

# What a capability lets an extension do, for the one who decides.
MEANINGS: Mapping[str, str] = {
    "cap:context.read": "know for which tenant and install it runs",
    "cap:log.emit": "write log lines",
    "cap:user.read": "know who is calling",
    "cap:secrets.get": "read the secrets given with --secret",
    "cap:http.fetch": "reach the origins given with --egress",
    "cap:storage.kv": "store data of its own",
    "cap:ui.proxy": "call the application's routes given with --route, as the user",
    "cap:scheduler.manage": "have itself called at times it chooses",
    "cap:invoice.manual.create": "create invoices",
    "cap:client.read": "read clients",
    "cap:service.read": "read services",
    "allow-forms": "submit forms in its page",
    "allow-modals": "open alerts and prompts from its page",
    "allow-downloads": "start downloads from its page",
    "allow-popups": "open windows from its page",
}
# A capability that is useless without something else, and how that is given.
_NEEDS = (
    ("cap:http.fetch", "egress", "--egress"),
    ("cap:ui.proxy", "routes", "--route"),
)

_CONFIG_KEY = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SECRET_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Terms:
    """What an install is given, beside its bundle."""

    config: Mapping[str, str] = field(default_factory=dict)
    # Capabilities, and the words that widen the page's sandbox.
    grants: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    memory_mb: int | None = None
    timeout_ms: int | None = None

    @classmethod
    def of(cls, install: Install) -> Terms:
        """The terms of what is installed."""
        routes = tuple(map(str, install.routes))
        limits = (install.memory_mb, install.timeout_ms)
        return cls(install.config, granted(install), install.egress, routes, *limits)

    def plus(self, more: Terms) -> Terms:
        """These terms and *more*, which wins where both say something."""
        return Terms(
            {**self.config, **more.config},
            (*self.grants, *more.grants),
            (*self.egress, *more.egress),
            (*self.routes, *more.routes),
            more.memory_mb or self.memory_mb,
            more.timeout_ms or self.timeout_ms,
        )

    def arguments(self) -> dict[str, Any]:
        """These terms as arguments of :meth:`runnerwsgi.installs.Installs.add`."""
        words = {grant for grant in self.grants if grant in SANDBOX_OPTIONS}
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return given | {
            "grants": [grant for grant in self.grants if grant not in words],
            "sandbox": sorted(words),
        }

    def __str__(self) -> str:
        extra = [grant for grant in self.grants if grant not in DEFAULT_GRANTS]
        counted = {
            "config value": self.config,
            "grant": extra,
            "egress origin": self.egress,
            "route": self.routes,
        }
        return ", ".join(
            output.counted(len(found), name) for name, found in counted.items() if found
        )


def asked(manifest: Manifest) -> tuple[str, ...]:
    """What an extension wants beyond running: capabilities, and words for its page's sandbox."""
    return (*manifest.capabilities, *(manifest.ui.sandbox if manifest.ui else ()))


def granted(install: Install) -> tuple[str, ...]:
    """What it has of that."""
    return (*install.grants, *install.sandbox)


def _pairs(texts: Iterable[str], option: str, key_form: re.Pattern[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key_form.fullmatch(key):
            raise click.BadParameter(
                f"write KEY=VALUE, with a key of letters, digits, dots and dashes "
                f"(found {output.visible(key[:40])!r}).",
                param_hint=option,
            )
        if key in found:
            raise click.BadParameter(f"{key} is given twice.", param_hint=option)
        found[key] = value
    return found


def each(parse: Callable[[str], Any]) -> Callable[..., tuple[str, ...]]:
    """A callback that checks every value of an option, and gives it back as it is written."""

    def callback(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> Any:
        try:
            return tuple(str(parse(text)) for text in texts)
        except ConfigurationError as exc:
            raise click.BadParameter(str(exc), ctx, param) from exc

    return callback


def parse_grant(text: str) -> str:
    """A capability's name, or a word for the page's sandbox.

    Raises:
        ConfigurationError: neither.
    """
    if text not in SANDBOX_OPTIONS and not re.fullmatch(r"cap:[a-z0-9]+([._-][a-z0-9]+)*", text):
        raise ConfigurationError(
            f"{output.visible(text[:80])!r} cannot be granted: write it as cap:storage.kv, or "
            f"use {', '.join(SANDBOX_OPTIONS)}."
        )
    return text


def parse_config(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> Any:
    """``--config KEY=VALUE``: each reaches the guest as the header ``x-ext-config-KEY``."""
    found = _pairs(texts, "--config", _CONFIG_KEY)
    for key, value in found.items():
        if not all(char.isprintable() for char in value):
            raise click.BadParameter(f"{key} has a control character.", param_hint="--config")
    return found


def parse_secrets(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> Any:
    """``--secret KEY=@FILE``, or ``KEY=-`` for standard input; one line end is cut off."""
    found = _pairs(texts, "--secret", _SECRET_KEY)
    if list(found.values()).count("-") > 1:
        raise click.BadParameter("standard input holds one secret.", param_hint="--secret")
    return {key: _secret(key, value) for key, value in found.items()}


def _secret(key: str, place: str) -> str:
    if place == "-":
        return sys.stdin.read().removesuffix("\n")
    if not place.startswith("@"):
        # Not echoed: the value is in the shell's history already, and need not be in a log too.
        raise click.BadParameter(
            f"a value typed here stays in the shell's history: put it into a file and write "
            f"{key}=@FILE, or {key}=- to read it from standard input.",
            param_hint="--secret",
        )
    try:
        return Path(place[1:]).read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text in UTF-8"
        raise ConfigurationError(f"The secret {key}: {place[1:]}: {reason}.") from exc


def concerns(done: Install, has_secrets: bool, settings: Settings) -> Iterator[str]:
    """What the one who installs should know."""
    yield from not_granted(done)
    for grant in granted(done):
        if grant not in (*DEFAULT_GRANTS, *asked(done.manifest)):
            yield f"{grant} is granted, but {done.extension_id} does not ask for it."
    for grant, name, option in _NEEDS:
        has, given = grant in done.grants, bool(getattr(done, name))
        if has and not given:
            yield f"{grant} is granted, but without {option} it reaches nothing."
        if given and not has:
            yield f"{option} has no effect without --grant {grant}."
    if has_secrets and "cap:secrets.get" not in done.grants:
        yield "It has secrets that it may not read: grant cap:secrets.get."
    allowed = [parse_egress_entry(entry) for entry in settings.egress_allow]
    for entry in map(parse_egress_entry, done.egress):
        if not any(_covers(upper, entry) for upper in allowed):
            yield f"{entry} is above RUNNER_EGRESS_ALLOW and stays closed: add it there."


def not_granted(done: Install) -> Iterator[str]:
    """What the extension asks for and did not get, and how to grant it."""
    for wish in asked(done.manifest):
        if wish not in granted(done):
            meaning = MEANINGS.get(wish, "use what a plugin provides")
            yield (
                f"{wish} is not granted: {done.extension_id} cannot {meaning}. Install it with "
                f"--grant {wish}."
            )


def _covers(upper: EgressEntry, entry: EgressEntry) -> bool:
    if str(upper) == str(entry):
        return True
    return upper.allows(entry.origin) and (upper.subdomains or not entry.subdomains)


def unprovided(done: Install, functions: capabilities.Functions) -> Iterator[str]:
    """What was granted, and no plugin provides."""
    for grant in done.grants:
        known = [name for name, row in capabilities.INTERFACES.items() if row.capability == grant]
        for interface in known or [grant.removeprefix("cap:")]:
            if grant not in DEFAULT_GRANTS and interface not in functions:
                yield f"{grant}: no plugin provides {interface}, so calls to it fail."
