"""`install`, `uninstall` and `installs`: what runs for whom, and what it may do."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runnerwsgi import bundles, capabilities, paths
from runnerwsgi.errors import BundleError, BundleUnavailable, ConfigurationError
from runnerwsgi.gateway import Gateway
from runnerwsgi.installs import Install, Installs
from runnerwsgi.manifest import DEFAULT_GRANTS
from runnerwsgi.origins import parse_egress_entry
from runnerwsgi.protocol import Bundle, WarmUp
from runnerwsgi.routes import RouteGrant
from runnerwsgi.settings import Settings
from runnerwsgi.stores import Store, open_store

from . import output
from .command import Command, json_option, quiet_logs, wants_json
from .extensions import build_here
from .terms import (
    MEANINGS,
    Terms,
    asked,
    concerns,
    each,
    granted,
    parse_config,
    parse_grant,
    parse_secrets,
    unprovided,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runnerwsgi.manifest import Manifest

tenant_option = click.option(
    "--tenant", default="default", show_default=True, help="For whom; the host names tenants."
)


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
    metavar="NAME",
    callback=each(parse_grant),
    help="Something it may do, such as cap:storage.kv, or allow-forms for its page.",
)
@click.option(
    "--egress",
    multiple=True,
    metavar="ORIGIN",
    callback=each(parse_egress_entry),
    help="Where it may send requests, such as https://api.example.com.",
)
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar='"METHOD PATH"',
    callback=each(RouteGrant.parse),
    help="A route of the application it may call.",
)
@click.option("--memory-mb", type=click.IntRange(1, 4096), help="Memory of one call, in MiB.")
@click.option(
    "--timeout-ms", type=click.IntRange(100, 600_000), help="Time of one call, in milliseconds."
)
@click.option("--push", is_flag=True, help="Upload the bundle to RUNNER_BUNDLE_STORE first.")
@click.option("--yes", is_flag=True, help="Grant everything that it asks for.")
@click.option("--reset", is_flag=True, help="Keep nothing of an installed version's terms.")
@json_option
def install(
    source: Path,
    tenant: str,
    secrets: dict[str, str],
    push: bool,
    yes: bool,
    reset: bool,
    **given: Any,
) -> None:
    """Install an extension for a tenant from SOURCE: a bundle's file, or an extension's folder.

    A folder is built and packed first. It shows what the extension asks for, and on a
    terminal asks whether to grant it. Where a version is installed already, what you give is
    added to what that one has; --reset starts anew.

    Where bundles are on a web server or in S3, it must be there already, or go there with
    --push.
    """
    quiet_logs()
    settings = Settings.from_env(os.environ)
    with gateway_of(settings) as gateway, installs_of(settings) as known:
        stored = _stored(settings, archive_of(source), tenant, push=push)
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
            **terms.arguments(),
            ui_digests=stored.ui_digests,
            secrets=_secrets(known, old, secrets, reset=reset),
        )
        found = list(concerns(done, bool(known.secret_keys(done.install_id)), settings))
        found += unprovided(
            done, capabilities.functions(_no_app, known, settings, gateway.capabilities)
        )
    _report(done, old, warm, settings, found)


@contextmanager
def gateway_of(settings: Settings, *plugins: object) -> Iterator[Gateway]:
    """The gateway of this environment, closed at the end."""
    settings.make_home()
    with Gateway.load(settings, os.environ, *plugins) as gateway:
        yield gateway


@contextmanager
def installs_of(settings: Settings) -> Iterator[Installs]:
    """The installs of this environment, closed at the end."""
    settings.make_home()
    with closing(Installs.from_settings(settings)) as known:
        yield known


def archive_of(source: Path) -> bytes:
    """The bundle at *source*; a folder is built and packed.

    Raises:
        BundleError: the folder cannot be packed.
        ConfigurationError: there is nothing.
    """
    if source.is_dir():
        build_here(source)
        return bundles.pack(source)
    if not source.exists():
        raise ConfigurationError(
            f"{source} does not exist. Name a bundle's file, or an extension's folder."
        )
    return source.read_bytes()


def _stored(settings: Settings, data: bytes, tenant: str, *, push: bool) -> bundles.StoredBundle:
    with closing(open_store(settings)) as store:
        if isinstance(store, bundles.BundleStore):
            return store.add(data)
        read = bundles.read_bundle(data)
        bundle = Bundle(tenant, read.manifest.name, read.content_hash)
        with output.working(f"Uploading to {store.where}" if push else f"Looking in {store.where}"):
            return store.push(bundle, data) if push else _found(store, bundle)


def _found(store: Store, bundle: Bundle) -> bundles.StoredBundle:
    try:
        return store.fetch(bundle)
    except BundleUnavailable as exc:
        raise BundleError(f"{exc}. Nothing was installed; --push uploads it first.") from exc


def _terms(old: Install | None, given: Terms, manifest: Manifest) -> Terms:
    if old is None:
        return given
    before = Terms.of(old)
    if kept := str(before):
        output.note(f"Kept from {old.version}: {kept}, and its secrets. --reset starts anew.")
    # What a new version no longer asks for, it no longer has.
    still = tuple(grant for grant in before.grants if grant in asked(manifest))
    return replace(before, grants=still).plus(given)


def _decided(terms: Terms, manifest: Manifest, tenant: str, *, yes: bool, chosen: bool) -> Terms:
    """Show what the extension asks for, and settle what it gets."""
    missing = [wish for wish in asked(manifest) if wish not in (*DEFAULT_GRANTS, *terms.grants)]
    if not wants_json():
        _show_asked(manifest, terms, tenant, yes=yes)
    if missing and not yes and not chosen and not wants_json() and sys.stdin.isatty():
        click.confirm("Grant what it asks for?", abort=True, err=True)
        yes = True
    return replace(terms, grants=(*terms.grants, *missing)) if yes else terms


def _show_asked(manifest: Manifest, terms: Terms, tenant: str, *, yes: bool) -> None:
    output.say(f"{manifest.name} {manifest.version}, for the tenant {output.visible(tenant)}")
    names = dict.fromkeys((*asked(manifest), *terms.grants))
    if not names:
        output.say("It asks for nothing.")
        return
    rows = [
        (name, MEANINGS.get(name, "what a plugin provides"), _standing(name, terms, yes=yes))
        for name in names
    ]
    output.print_table(("it asks for", "to", "granted"), rows)


def _standing(name: str, terms: Terms, *, yes: bool) -> str:
    if name in DEFAULT_GRANTS:
        return "always"
    return "yes" if yes or name in terms.grants else "no"


def _warm_up(gateway: Gateway, bundle: Bundle) -> WarmUp:
    waits_for = (
        f"the backend {gateway.backend_name} to fetch and compile it; a runner elsewhere may have "
        "to start first"
    )
    with output.working("Making it ready", waits_for):
        try:
            return gateway.warm_up(bundle)
        except BundleUnavailable as exc:  # its advice, to install again, is for callers
            raise BundleError(f"{exc}. Nothing was installed.") from exc


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


def _no_app(environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
    raise NotImplementedError  # only the names of the functions are wanted, nothing is called


def _report(
    done: Install, old: Install | None, warm: WarmUp, settings: Settings, warnings: list[str]
) -> None:
    if wants_json():
        compiled = {"compiled": warm.compiled, "warm_up_ms": warm.ms}
        output.print_json({**fields_of(done, settings), **compiled, "warnings": warnings})
        return
    for warning in warnings:
        output.warn(warning)
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
    named = done.tenant_id != "default"
    tenant = f" --tenant {shlex.quote(done.tenant_id)}" if named else ""
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
        "grants": list(granted(done)),
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
                " ".join(grant for grant in granted(one) if grant not in DEFAULT_GRANTS) or "-",
                f"{one.created_at:%Y-%m-%d %H:%M}",
            )
            for one in found
        ],
    )
