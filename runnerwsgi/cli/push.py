"""`push`: put a bundle where the runners of other machines find it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import click

from runnerwsgi.bundles import read_bundle
from runnerwsgi.protocol import Bundle
from runnerwsgi.settings import Settings
from runnerwsgi.stores import open_store

from . import output
from .command import Command, json_option, quiet_logs, wants_json
from .installs import archive_of, tenant_option


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@tenant_option
@json_option
def push(source: Path, tenant: str) -> None:
    """Upload SOURCE, a bundle's file or an extension's folder, to RUNNER_BUNDLE_STORE.

    A folder is built and packed first. Nothing is installed: `runnerwsgi install` does that, on
    any machine that reads the same store. Each tenant has keys of its own.
    """
    quiet_logs()
    settings = Settings.from_env(os.environ)
    data = archive_of(source)
    read = read_bundle(data)
    bundle = Bundle(tenant, read.manifest.name, read.content_hash)
    settings.make_home()
    with closing(open_store(settings)) as store:
        with output.working(f"Uploading to {store.where}"):
            store.push(bundle, data)
        where = store.where
    if wants_json():
        output.print_json(
            {
                "store": where,
                "tenant": tenant,
                "extension": bundle.extension_id,
                "version": read.manifest.version,
                "content_hash": bundle.content_hash,
                "bytes": len(data),
            }
        )
        return
    name = f"{bundle.extension_id} {read.manifest.version}"
    output.say(f"Pushed {name} to {where} ({output.size(len(data))}).")
    output.say(f"  {bundle.content_hash}")
