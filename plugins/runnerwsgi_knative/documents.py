"""Documents of Kubernetes: written as YAML with their reasons, read from YAML or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runnerwsgi.errors import ConfigurationError

if TYPE_CHECKING:
    import yaml

Document = dict[str, Any]

# What every reader of YAML takes for this very text. All else is quoted.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@+-]*(?::[A-Za-z0-9_./@+-]+)*")
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_NOT_ASCII = re.compile(r"[^\x20-\x7e]")


class Noted(dict[str, Any]):
    """A mapping with a comment that stands above it in YAML.

    Example::

        Noted("Asks names.", ports=[{"protocol": "UDP", "port": 53}])
    """

    def __init__(self, note: str, /, **fields: Any) -> None:
        super().__init__(**fields)
        self.note = note


def to_yaml(documents: Iterable[Document], reasons: Mapping[str, str]) -> str:
    """Documents as YAML.

    Args:
        documents: of mappings, lists, texts, whole numbers and booleans.
        reasons: a comment for each field that has one, by the name of the field and of the one
            around it, such as ``spec.timeoutSeconds``.
    """
    lines = (line for each in documents for line in ("---", *_document(each, reasons), ""))
    return "\n".join(lines)


def to_json(documents: Iterable[Document]) -> Document:
    """Documents as one value that `kubectl apply` takes."""
    return {"apiVersion": "v1", "kind": "List", "items": list(documents)}


def _document(document: Document, reasons: Mapping[str, str]) -> Iterator[str]:
    yield from _comment(document)
    yield from _mapping(document, "", reasons)


def _mapping(value: Mapping[str, Any], around: str, reasons: Mapping[str, str]) -> Iterator[str]:
    for name, inner in value.items():
        if reason := reasons.get(f"{around}.{name}"):
            yield f"# {reason}"
        key = _scalar(name)
        if isinstance(inner, dict | list) and inner:
            yield f"{key}:"
            # A list stands where its field does: one level less to read.
            indent = "  " if isinstance(inner, dict) else ""
            yield from (f"{indent}{line}" for line in _node(inner, name, reasons))
        else:
            yield f"{key}: {_scalar(inner)}"


def _node(value: Any, around: str, reasons: Mapping[str, str]) -> Iterator[str]:
    if isinstance(value, dict):
        return _mapping(value, around, reasons)
    return _items(value, around, reasons)


def _items(value: list[Any], around: str, reasons: Mapping[str, str]) -> Iterator[str]:
    for item in value:
        yield from _comment(item)
        lines = _node(item, around, reasons) if item and isinstance(item, dict | list) else None
        first, *rest = lines or [_scalar(item)]
        yield f"- {first}"
        yield from (f"  {line}" for line in rest)


def _comment(value: Any) -> Iterator[str]:
    if isinstance(value, Noted):
        yield from (f"# {line}" for line in value.note.splitlines())


def _scalar(value: Any) -> str:
    """A text, a number, a boolean, or an empty mapping or list."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    # A quoted text of JSON is one of YAML, but for what JSON writes as two halves.
    return _NOT_ASCII.sub(_escaped, json.dumps(value, ensure_ascii=False))


def _escaped(match: re.Match[str]) -> str:
    return f"\\U{ord(match[0]):08x}"


def read(text: str, name: str) -> list[Any]:
    """Every document of a text, those of a `List` one by one.

    YAML is read as kubectl reads it, version 1.1, and a field that stands twice is refused. JSON
    needs no PyYAML.

    Args:
        text: YAML of any number of documents, or one JSON value.
        name: of the file, for messages.

    Raises:
        ConfigurationError: it is neither, or PyYAML is not installed.
    """
    try:
        found: Iterable[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        found = _read_yaml(text, name)
    return [item for each in found if each is not None for item in _listed(each)]


def _listed(document: Any) -> list[Any]:
    if isinstance(document, dict) and document.get("kind") == "List":
        return list(document.get("items") or ())
    return [document]


def _read_yaml(text: str, name: str) -> list[Any]:
    try:
        import yaml
    except ImportError as exc:
        raise ConfigurationError(
            f"{name} is not JSON, and to read YAML needs PyYAML: pip install 'runnerwsgi[knative]'."
        ) from exc
    try:
        return list(yaml.load_all(text, _strict_loader()))
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{name} is no YAML: {yaml_fault(exc)}.") from None


def yaml_fault(exc: Exception) -> str:
    """What is wrong with a text, and where; without the text, which may hold a secret."""
    mark = getattr(exc, "problem_mark", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = getattr(exc, "problem", None) or getattr(exc, "reason", None)
    return f"{problem or type(exc).__name__}{where}"


def _strict_loader() -> type[yaml.SafeLoader]:
    import yaml

    class StrictLoader(yaml.SafeLoader):
        """Refuses a field that stands twice, of which PyYAML would take the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue  # which is refused below
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} stands twice", key.start_mark
                    )
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    return StrictLoader
