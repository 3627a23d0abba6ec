"""`install`, `uninstall` and `installs`: what runs for whom, and what it may do."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runnerwsgi import bundles, capabilities, paths
from runnerwsgi.errors import ConfigurationError, StorageError
from runnerwsgi.gateway import Gateway
from runnerwsgi.installs import DEFAULT_GRANTS, Install, Installs
from runnerwsgi.origins import parse_egress_entry
from runnerwsgi.protocol import Bundle, WarmUp
from runnerwsgi.settings import Settings

from . import output
from .command import Command, json_option, quiet_logs, wants_json
from .extensions import build_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runnerwsgi.manifest import Manifest
    from runnerwsgi.origins import EgressEntry

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
}
# A capability that is useless without something else, and how that is given.
_NEEDS = (
    ("cap:http.fetch", "egress", "--egress"),
    ("cap:ui.proxy", "routes", "--route"),
)

_CONFIG_KEY = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SECRET_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

tenant_option = click.option(
    "--tenant", default="default", show_default=True, help="For whom; the host names tenants."
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What an install is given, beside its bundle."""

    config: Mapping[str, str] = field(default_factory=dict)
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
        return cls(install.config, install.grants, install.egress, routes, *limits)

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


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@tenant_option
@click.option(
    "--config",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_config,
    help="A value that the extension reads. Not for secrets.",
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="KEY=@FILE",
    callback=parse_secrets,
    help="A secret, kept encrypted; KEY=- reads it from standard input.",
)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="CAPABILITY",
    help="Something it may do, such as cap:storage.kv.",
)
@click.option(
    "--egress",
    multiple=True,
    metavar="ORIGIN",
    help="Where it may send requests, such as https://api.example.com.",
)
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar='"METHOD PATH"',
    help="A route of the application it may call.",
)
@click.option("--memory-mb", type=click.IntRange(1, 4096), help="Memory of one call, in MiB.")
@click.option(
    "--timeout-ms", type=click.IntRange(100, 600_000), help="Time of one call, in milliseconds."
)
@click.option("--yes", is_flag=True, help="Grant everything that it asks for.")
@click.option("--reset", is_flag=True, help="Keep nothing of an installed version's terms.")
@json_option
def install(
    source: Path, tenant: str, secrets: dict[str, str], yes: bool, reset: bool, **given: Any
) -> None:
    """Install an extension for a tenant from SOURCE: a bundle's file, or an extension's folder.

    A folder is built and packed first. It shows what the extension asks for, and on a
    terminal asks whether to grant it. Where a version is installed already, what you give is
    added to what that one has; --reset starts anew.
    """
    quiet_logs()
    settings = Settings.from_env(os.environ)
    with gateway_of(settings) as gateway, installs_of(settings) as known:
        stored = bundles.BundleStore.from_url(settings.bundle_store).add(_archive(source))
        manifest = stored.manifest
        old = None if reset else known.find(tenant, manifest.name)
        terms = _terms(old, Terms(**given), manifest)
        terms = _decided(terms, manifest, tenant, yes=yes, chosen=bool(given["grants"]))
        warm = _warm_up(gateway, Bundle(tenant, manifest.name, stored.content_hash))
        done = known.add(
            tenant,
            manifest.name,
            stored.content_hash,
            manifest,
            config=terms.config,
            grants=terms.grants,
            egress=terms.egress,
            routes=terms.routes,
            memory_mb=terms.memory_mb,
            timeout_ms=terms.timeout_ms,
            ui_digests=stored.ui_digests,
            secrets=_secrets(known, old, secrets, reset=reset),
        )
        concerns = list(_concerns(done, bool(known.secret_keys(done.install_id)), settings))
        concerns += _unprovided(
            done, capabilities.functions(_no_app, known, settings, gateway.capabilities)
        )
    _report(done, old, warm, settings, concerns)


def make_home(settings: Settings) -> None:
    """Make the data folder, closed to other users, before somebody makes it by the way.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(
            f"The data folder {settings.home} cannot be made: {exc.strerror}. Set RUNNER_HOME to "
            "one that can."
        ) from exc


@contextmanager
def gateway_of(settings: Settings, *plugins: object) -> Iterator[Gateway]:
    """The gateway of this environment, closed at the end."""
    make_home(settings)
    with Gateway.load(settings, os.environ, *plugins) as gateway:
        yield gateway


@contextmanager
def installs_of(settings: Settings) -> Iterator[Installs]:
    """The installs of this environment, closed at the end."""
    make_home(settings)
    with closing(Installs.from_settings(settings)) as known:
        yield known


def _archive(source: Path) -> bytes:
    """The bundle at *source*; a folder is built and packed."""
    if source.is_dir():
        build_here(source)
        return bundles.pack(source)
    if not source.exists():
        raise ConfigurationError(
            f"{source} does not exist. Name a bundle's file, or an extension's folder."
        )
    return source.read_bytes()


def _terms(old: Install | None, given: Terms, manifest: Manifest) -> Terms:
    if old is None:
        return given
    before = Terms.of(old)
    if kept := _kept(before):
        output.note(f"Kept from {old.version}: {kept}, and its secrets. --reset starts anew.")
    # What a new version no longer asks for, it no longer has.
    still = tuple(grant for grant in before.grants if grant in manifest.capabilities)
    return replace(before, grants=still).plus(given)


def _kept(terms: Terms) -> str:
    extra = [grant for grant in terms.grants if grant not in DEFAULT_GRANTS]
    counted = {
        "config values": terms.config,
        "grants": extra,
        "egress entries": terms.egress,
        "routes": terms.routes,
    }
    return ", ".join(f"{len(found)} {name}" for name, found in counted.items() if found)


def _decided(terms: Terms, manifest: Manifest, tenant: str, *, yes: bool, chosen: bool) -> Terms:
    """Show what the extension asks for, and settle what it gets."""
    missing = [
        asked for asked in manifest.capabilities if asked not in (*DEFAULT_GRANTS, *terms.grants)
    ]
    if not wants_json():
        _show_asked(manifest, terms, tenant, yes=yes)
    if missing and not yes and not chosen and not wants_json() and sys.stdin.isatty():
        click.confirm("Grant what it asks for?", abort=True, err=True)
        yes = True
    return replace(terms, grants=(*terms.grants, *missing)) if yes else terms


def _show_asked(manifest: Manifest, terms: Terms, tenant: str, *, yes: bool) -> None:
    output.say(f"{manifest.name} {manifest.version}, for the tenant {output.visible(tenant)}")
    asked = dict.fromkeys((*manifest.capabilities, *terms.grants))
    if not asked:
        output.say("It asks for nothing.")
        return
    rows = [
        (name, MEANINGS.get(name, "what a plugin provides"), _standing(name, terms, yes=yes))
        for name in asked
    ]
    output.print_table(("it asks for", "to", "granted"), rows)


def _standing(name: str, terms: Terms, *, yes: bool) -> str:
    if name in DEFAULT_GRANTS:
        return "always"
    return "yes" if yes or name in terms.grants else "no"


def _warm_up(gateway: Gateway, bundle: Bundle) -> WarmUp:
    with output.working("Making it ready"):
        return gateway.warm_up(bundle)


def _secrets(
    known: Installs, old: Install | None, given: dict[str, str], *, reset: bool
) -> dict[str, str] | None:
    """The whole new set of secrets; None leaves those that are there."""
    if reset or (old is None and given):
        return given
    if not given or old is None:
        return None
    keys = known.secret_keys(old.install_id)
    kept = {key: known.secret(old.install_id, key) or "" for key in keys if key not in given}
    return kept | given


def _concerns(done: Install, has_secrets: bool, settings: Settings) -> Iterator[str]:
    """What the one who installs should know."""
    yield from not_granted(done)
    for grant in done.grants:
        if grant not in (*DEFAULT_GRANTS, *done.manifest.capabilities):
            yield f"{grant} is granted, but {done.extension_id} does not ask for it."
    for grant, name, option in _NEEDS:
        granted, given = grant in done.grants, bool(getattr(done, name))
        if granted and not given:
            yield f"{grant} is granted, but without {option} it reaches nothing."
        if given and not granted:
            yield f"{option} has no effect without --grant {grant}."
    if has_secrets and "cap:secrets.get" not in done.grants:
        yield "It has secrets that it may not read: grant cap:secrets.get."
    allowed = [parse_egress_entry(entry) for entry in settings.egress_allow]
    for entry in map(parse_egress_entry, done.egress):
        if not any(_covers(upper, entry) for upper in allowed):
            yield f"{entry} is above RUNNER_EGRESS_ALLOW and stays closed: add it there."


def not_granted(done: Install) -> Iterator[str]:
    """What the extension asks for and did not get, and how to grant it."""
    for asked in done.manifest.capabilities:
        if asked not in done.grants:
            meaning = MEANINGS.get(asked, "use what a plugin provides")
            yield (
                f"{asked} is not granted: {done.extension_id} cannot {meaning}. Install it with "
                f"--grant {asked}."
            )


def _covers(upper: EgressEntry, entry: EgressEntry) -> bool:
    if str(upper) == str(entry):
        return True
    return upper.allows(entry.origin) and (upper.subdomains or not entry.subdomains)


def _unprovided(done: Install, functions: capabilities.Functions) -> Iterator[str]:
    for interface, row in capabilities.INTERFACES.items():
        provided = row.is_default or interface in functions
        if row.capability in done.grants and not provided:
            yield f"{row.capability}: no plugin provides {interface}, so calls to it fail."


def _no_app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
    raise NotImplementedError  # only the names of the functions are wanted, nothing is called


def _report(
    done: Install, old: Install | None, warm: WarmUp, settings: Settings, concerns: list[str]
) -> None:
    if wants_json():
        compiled = {"compiled": warm.compiled, "warm_up_ms": warm.ms}
        output.print_json({**fields_of(done, settings), **compiled, "warnings": concerns})
        return
    for concern in concerns:
        output.warn(concern)
    how = f"compiled in {warm.ms / 1000:.1f} s" if warm.compiled else "nothing to compile"
    output.say(f"{_verb(old, done)} {done.extension_id} {done.version} ({how}).")
    for name, value in _addresses(done, settings).items():
        output.say(f"  {name:8} {value}")
    output.say(f"  {'next':8} {_next(done)}")


def _verb(old: Install | None, done: Install) -> str:
    if old is None:
        return "Installed"
    return "Updated" if old.version == done.version else f"Replaced {old.version} by"


def _addresses(done: Install, settings: Settings) -> dict[str, str]:
    """Where browsers find the page and the handler."""
    found = {}
    if url := page_url(done, settings):
        found["page"] = url
    if done.manifest.runtime or done.manifest.endpoints:
        found["handler"] = f"{settings.execute_mount}/{done.extension_id}/"
    return found


def page_url(done: Install, settings: Settings) -> str | None:
    """The public address of the extension's page; None when it has none."""
    if done.manifest.ui is None:
        return None
    entry = done.manifest.ui.entry.removeprefix("ui/")
    return settings.public_base + paths.ui_path(done.extension_id, done.content_hash, entry)


def _next(done: Install) -> str:
    tenant = "" if done.tenant_id == "default" else f" --tenant {done.tenant_id}"
    for endpoint in done.manifest.endpoints:
        if endpoint.method == "GET" and "/:" not in endpoint.path:
            return f"runnerwsgi execute {done.extension_id} GET {endpoint.path}{tenant}"
    return "runnerwsgi serve MODULE:APP"


def fields_of(done: Install, settings: Settings) -> dict[str, Any]:
    """An install for programs."""
    return {
        "tenant": done.tenant_id,
        "extension": done.extension_id,
        "version": done.version,
        "content_hash": done.content_hash,
        "install_id": done.install_id,
        "config": dict(done.config),
        "grants": list(done.grants),
        "egress": list(done.egress),
        "routes": [str(route) for route in done.routes],
        "memory_mb": done.memory_mb,
        "timeout_ms": done.timeout_ms,
        "created_at": done.created_at.isoformat(),
        **_addresses(done, settings),
    }


@click.command(cls=Command)
@click.argument("extension")
@tenant_option
@json_option
def uninstall(extension: str, tenant: str) -> None:
    """Uninstall EXTENSION for a tenant: its terms and secrets. What it stored stays."""
    quiet_logs()
    with installs_of(Settings.from_env(os.environ)) as known:
        done = find(known, tenant, extension)
        known.remove(tenant, extension)
    if wants_json():
        output.print_json({"extension": extension, "tenant": tenant, "version": done.version})
    else:
        output.say(f"Uninstalled {extension} {done.version} for the tenant {tenant}.")


def find(known: Installs, tenant: str, extension: str) -> Install:
    """The install of *extension* for *tenant*.

    Raises:
        ConfigurationError: there is none; the message names what there is.
    """
    if done := known.find(tenant, extension):
        return done
    names = ", ".join(one.extension_id for one in known.list(tenant)) or "nothing"
    raise ConfigurationError(
        f"{extension} is not installed for the tenant {tenant}, which has {names}. "
        "`runnerwsgi installs` lists all tenants', `runnerwsgi install` adds one."
    )


@click.command(cls=Command)
@click.option("--tenant", help="Only this tenant's.")
@json_option
def installs(tenant: str | None) -> None:
    """List what is installed: tenant, version, and what each may do."""
    quiet_logs()
    settings = Settings.from_env(os.environ)
    with installs_of(settings) as known:
        found = known.list(tenant)
        rows = [
            {**fields_of(one, settings), "secrets": list(known.secret_keys(one.install_id))}
            for one in found
        ]
    if wants_json():
        output.print_json({"installs": rows})
    elif rows:
        _print_installs(found)
    else:
        output.say("Nothing is installed. Next: runnerwsgi new extension NAME")


def _print_installs(found: Iterable[Install]) -> None:
    output.print_table(
        ("tenant", "extension", "version", "granted", "since"),
        [
            (
                one.tenant_id,
                one.extension_id,
                one.version,
                " ".join(grant for grant in one.grants if grant not in DEFAULT_GRANTS) or "-",
                f"{one.created_at:%Y-%m-%d %H:%M}",
            )
            for one in found
        ],
    )
