"""`runnerwsgi knative …` as it is typed, for a gateway that has what a manifest needs."""

import json
import os

from click.testing import CliRunner

from runnerwsgi.cli import cli

TOKEN = "nJ2v-8sQeT4hYc7LwZ0dRfXm1KpUaB5gV9oEiH3"
IMAGE = "registry.example.com/runner@sha256:" + "0" * 64
GATEWAY = {
    "RUNNER_SERVICE_TOKEN": TOKEN,
    "RUNNER_CALLBACK_BASE": "http://shop.web.svc:8000",
    "RUNNER_BUNDLE_STORE": "https://bundles.example.com/runner",
    "RUNNER_IDEMPOTENCY_URL": "redis://:password@keys.data.svc.cluster.local/0",
}


def knative(*args, stdin=None, **env):
    """Type `runnerwsgi knative` and *args*: the result has exit status and both streams."""
    clean = {name: None for name in os.environ if name.startswith(("RUNNER_", "AWS_"))}
    typed = ["knative", *map(str, args)]
    return CliRunner().invoke(cli, typed, prog_name="runnerwsgi", env={**clean, **env}, input=stdin)


def manifest(*args, **env):
    """What `manifest` prints for the gateway above; with more settings, or None for fewer."""
    done = knative("manifest", "--image", IMAGE, *args, **{**GATEWAY, **env})
    assert done.exit_code == 0, done.output
    return done.stdout


def documents(*args, **env):
    """That, by kind and name."""
    items = json.loads(manifest("--json", *args, **env))["items"]
    return {f"{item['kind']} {item['metadata']['name']}": item for item in items}


def service(*args, **env):
    """The Knative Service of that."""
    return documents(*args, **env)["Service runner"]


def container(*args, **env):
    """Its container."""
    return service(*args, **env)["spec"]["template"]["spec"]["containers"][0]
