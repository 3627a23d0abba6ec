"""A Knative Service as a tree, for people: what it is, who gets its calls, and what is amiss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

from runnerwsgi.cli import output

from . import state
from .observed import Condition, Object, Target, conditions, part, scale, traffic

if TYPE_CHECKING:
    from .control import Sight
    from .layers import Layer, Seen

_STYLES: Mapping[str | None, str] = {
    **dict.fromkeys(("ok", "active", "idle"), "green"),
    **dict.fromkeys(("degraded", "activating", "reconciling"), "yellow"),
    **dict.fromkeys(("unavailable", "failing", "down", "absent", "not-installed"), "red bold"),
}
_UNITS = ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"))
_SHORT_DIGEST = len("sha256:") + 12


def of(name: str, seen: Seen) -> Tree:
    """The picture of what was seen of the service *name*."""
    tree = Tree(_line(name, seen.status))
    for what, layer in seen.layers.items():
        branch = tree.add(_layer(what, layer))
        if what == "runner" and layer.means != "ok":
            _add(branch, (f"{check} {text}" for check, text in seen.checks.items()))
    if seen.sight and seen.sight.service:
        _draw(tree, seen.sight)
    return tree


def words(seen: Seen) -> str:
    """The same in one line."""
    told = (f"{what} {layer.word}" for what, layer in seen.layers.items())
    return output.visible(f"{seen.status}: {', '.join(told)}")


def _draw(tree: Tree, sight: Sight) -> None:
    """What Kubernetes has of the service."""
    service = sight.service
    status = part(service, "status")
    local, public = part(status, "address").get("url"), status.get("url")
    tree.add(_line("address", local or "none yet"))
    if public and public != local:
        tree.add(_line("public", public))
    branch = tree.add(_line("revisions"))
    for name, shares in _shares(service).items():
        revision = sight.revisions.get(name)
        word, _ = state.pods_of(revision)
        twig = branch.add(_line(name, word, _told(shares, revision)))
        if revision is not None:
            _add(twig, _facts(revision))
            _add(twig, map(_amiss, _troubles(revision)), "yellow")
    troubles = list(map(_amiss, _troubles(service)))
    if troubles:
        _add(tree.add(_line("conditions")), troubles, "yellow")


def _line(what: str, word: str = "", rest: str = "") -> Text:
    line = Text(output.visible(what), style="bold")
    if word:
        line.append("  ").append(output.visible(word), style=_STYLES.get(word, "not bold"))
    if rest:
        line.append(f": {output.visible(rest)}", style="not bold")
    return line


def _layer(what: str, layer: Layer) -> Text:
    line = _line(what, layer.word, layer.detail)
    line.stylize(_STYLES.get(layer.means, ""), len(what) + 2, len(what) + 2 + len(layer.word))
    return line


def _add(branch: Tree, lines: Iterator[str] | Sequence[str], style: str = "") -> None:
    for line in lines:
        branch.add(Text(output.visible(line), style=style))


def _shares(service: Object) -> dict[str, list[Target]]:
    """Every revision that is told of, the newest one included, and what it gets."""
    found: dict[str, list[Target]] = {}
    for target in traffic(service):
        if target.revision:
            found.setdefault(target.revision, []).append(target)
    newest = part(service, "status").get("latestCreatedRevisionName")
    if newest:
        found.setdefault(newest, [])
    return found


def _told(shares: Sequence[Target], revision: Object | None) -> str:
    percent = sum(one.percent or 0 for one in shares)
    tags = ", ".join(one.tag for one in shares if one.tag)
    parts = [
        f"{percent} % of the calls" if percent else "none of the calls",
        f"tag {tags}" if tags else "",
        _pods(part(revision, "status")) if revision is not None else "it cannot be read",
    ]
    return ", ".join(filter(None, parts))


def _pods(status: Object) -> str:
    there, wanted = status.get("actualReplicas") or 0, status.get("desiredReplicas") or 0
    pods = output.counted(there, "pod")
    return pods if there == wanted else f"{pods}, {wanted} wanted"


def _facts(revision: Object) -> Iterator[str]:
    for one in part(revision, "status").get("containerStatuses") or ():
        image, _, digest = (one.get("imageDigest") or "").partition("@")
        if image:
            yield f"image {image}@{digest[:_SHORT_DIGEST]}" if digest else f"image {image}"
    yield ", ".join(_limits(revision))


def _limits(revision: Object) -> Iterator[str]:
    spec = part(revision, "spec")
    least, most = scale(revision)
    calls, limit = spec.get("containerConcurrency"), spec.get("timeoutSeconds")
    yield f"{least} to {most} pods" if most else f"{least} pods or more"
    yield f"each {output.counted(calls, 'call')} at once" if calls else "any number of calls"
    if limit:
        yield f"{limit} s a call"


def _troubles(item: Object) -> list[Condition]:
    """What is not as it should be; a revision without calls has no pods, and that is right."""
    found = [
        one
        for one in conditions(item)
        if one.status != "True" and (one.type, one.reason) != ("Active", "NoTraffic")
    ]
    # Ready repeats what another says.
    return [one for one in found if one.type != "Ready" or len(found) == 1]


def _amiss(one: Condition) -> str:
    return str(one) if one.age is None else f"{one}, for {_shown(one.age)}"


def _shown(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "now"
