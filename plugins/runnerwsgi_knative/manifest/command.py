"""`runnerwsgi knative manifest`: everything that a namespace needs to run extensions."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import click

from runnerwsgi.cli import output
from runnerwsgi.cli.command import Command, json_option, quiet_logs, wants_json
from runnerwsgi_knative.documents import to_json, to_yaml

from .deployment import Deployment, Options
from .objects import REASONS, objects

if TYPE_CHECKING:
    from .reach import Network


DEFAULT_SERVICE = "extensions/runner"

# RFC 1123, and for what becomes a name in DNS by itself RFC 1035.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_SERVICE = rf"{_LABEL}/[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?"
_ACCOUNT = rf"{_LABEL}/{_NAME}"
_DNS = rf"{_LABEL}:[0-9]{{1,5}}"
_KEY_VALUE = r"[A-Za-z0-9][A-Za-z0-9./_-]*=[A-Za-z0-9._-]*"
_IMAGE = r"[^\s]{1,500}"


def _form(pattern: str, advice: str) -> Callable[[Any, Any, Any], Any]:
    """A callback that checks each value of an option."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        for text in value if isinstance(value, tuple) else (value,):
            if text is not None and not re.fullmatch(pattern, text):
                raise click.BadParameter(f"{text!r}: {advice}", ctx, param)
        return value

    return callback


def _networks(
    ctx: click.Context, param: click.Parameter, values: Iterable[str]
) -> dict[str, tuple[Network, ...]]:
    """``HOST=CIDR``; a host may come several times."""
    found: dict[str, tuple[Network, ...]] = {}
    for value in values:
        host, _, network = value.partition("=")
        try:
            found[host] = (*found.get(host, ()), ip_network(network))
        except ValueError as exc:
            raise click.BadParameter(
                f"{value!r}: write it as db.example.com=10.1.2.0/24 ({exc}).", ctx, param
            ) from exc
    return found


@click.command(cls=Command)
@click.option(
    "--image",
    required=True,
    metavar="NAME",
    callback=_form(_IMAGE, "an image's name has no blanks."),
    help="The runner's image, as the cluster finds it; best with @sha256:….",
)
@click.option(
    "--service",
    envvar="RUNNER_KNATIVE_SERVICE",
    default=DEFAULT_SERVICE,
    metavar="NAMESPACE/NAME",
    callback=_form(_SERVICE, "write it as extensions/runner."),
    help=f"The Knative Service.  [default: RUNNER_KNATIVE_SERVICE, {DEFAULT_SERVICE}]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="Calls that a pod executes at a time.",
)
@click.option(
    "--min-scale",
    "least",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Pods that are always there; with 0 a call may wait for the first one.",
)
@click.option(
    "--max-scale",
    "most",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Pods at most.",
)
@click.option(
    "--cpu",
    type=click.FloatRange(0.1, 1000),
    default=1.0,
    show_default=True,
    help="Processors of a pod.",
)
@click.option(
    "--memory",
    "memory_mib",
    type=click.IntRange(512),
    metavar="MIB",
    help="Memory of a pod.  [default: 1024, and RUNNER_MEMORY_MB for each call]",
)
@click.option(
    "--secret",
    metavar="NAME",
    callback=_form(_NAME, "use lower-case letters, digits, dashes and dots."),
    help="Print no Secret: the pods use this one, which is there already.",
)
@click.option(
    "--pull-secret",
    metavar="NAME",
    callback=_form(_NAME, "use lower-case letters, digits, dashes and dots."),
    help="A Secret that is there already, with which the image is pulled.",
)
@click.option(
    "--gateway-account",
    metavar="NAMESPACE/NAME",
    callback=_form(_ACCOUNT, "write it as web/shop."),
    help="The gateway's ServiceAccount, which may ask how the runner is.  [default: one is made]",
)
@click.option(
    "--gateway-port",
    type=click.IntRange(1, 65535),
    help="Where the gateway's own pods listen.  [default: the port of RUNNER_CALLBACK_BASE]",
)
@click.option(
    "--gateway-label",
    "gateway_labels",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_form(_KEY_VALUE, "write it as app=shop."),
    help="A label of the gateway's pods; repeatable.  [default: every pod of their namespace]",
)
@click.option(
    "--address",
    "networks",
    multiple=True,
    metavar="HOST=CIDR",
    callback=_networks,
    help="Where a host outside of the cluster is; repeatable.  [default: any public address]",
)
@click.option(
    "--dns",
    default="kube-system:53",
    show_default=True,
    metavar="NAMESPACE:PORT",
    callback=_form(_DNS, "write it as kube-system:53."),
    help="The pods that answer for the cluster's names.",
)
@click.option(
    "--domain",
    metavar="NAME",
    callback=_form(_NAME, "write it as runner.example.com."),
    help="Publish the runner under this name.",
)
@click.option(
    "--tls-secret",
    metavar="NAME",
    callback=_form(_NAME, "use lower-case letters, digits, dashes and dots."),
    help="The Secret with that name's certificate.",
)
@json_option
def manifest(service: str, **typed: Any) -> None:
    """Print what Kubernetes needs to run extensions on Knative.

    Made for a gateway with this environment: its service token, bundle store, idempotency store,
    RUNNER_CALLBACK_BASE and limits. Apply it to a namespace that is there:

    runnerwsgi knative manifest --image … | kubectl apply -f -
    """
    quiet_logs()
    deployment = Deployment.from_env(os.environ, _options(service, **typed))
    documents = objects(deployment)
    if wants_json():
        output.print_json(to_json(documents))
    else:
        click.echo(to_yaml(documents, REASONS), nl=False)
    for line in _advice(deployment):
        output.note(line)


def _options(
    service: str,
    *,
    gateway_account: str | None,
    gateway_labels: tuple[str, ...],
    dns: str,
    **typed: Any,
) -> Options:
    namespace, _, name = service.partition("/")
    reader = tuple(gateway_account.split("/")) if gateway_account else None
    where, _, port = dns.partition(":")
    labels = tuple(tuple(each.split("=", 1)) for each in gateway_labels)
    if typed["most"] < typed["least"]:
        raise click.BadParameter("it is less than --min-scale.", param_hint="--max-scale")
    if typed["tls_secret"] and not typed["domain"]:
        raise click.BadParameter("it is for --domain, which is missing.", param_hint="--tls-secret")
    given: Any = {"reader": reader, "gateway_labels": labels, "dns": (where, int(port))}
    return Options(namespace, name, **given, **typed)


def _advice(deployment: Deployment) -> Iterable[str]:
    """What is left to do, for whoever sees the end of it on a terminal."""
    options = deployment.options
    if options.secret:
        yield f"The Secret {options.secret} needs the keys {', '.join(sorted(deployment.secrets))}."
    if deployment.asks_for_a_role:
        yield (
            "No AWS_ACCESS_KEY_ID is set: give the ServiceAccount "
            f"{options.namespace}/{options.name} a role that may read the bucket."
        )
    yield (
        f"The gateway needs RUNNER_BACKEND=knative and RUNNER_KNATIVE_SERVICE={options.namespace}/"
        f"{options.name}; and RUNNER_BUNDLE_STORE, RUNNER_CALLBACK_BASE and the token as here."
    )
