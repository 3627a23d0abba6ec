"""Documents of Kubernetes, written and read."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from runnerwsgi_knative.documents import Noted, read, to_yaml

from runnerwsgi.errors import ConfigurationError

TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "yes",
        "NO",
        "null",
        "~",
        "1e3",
        "0x1f",
        "12:30",
        "2026-11-23",
        "=",
        "<<",
        "a: b",
        "a #b",
        "- a",
    ]
)
SCALARS = TEXTS | st.booleans() | st.integers()
NODES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(TEXTS, NODES, min_size=1, max_size=3), min_size=1, max_size=3))
def test_what_is_written_is_read_again(documents):
    assert list(yaml.safe_load_all(to_yaml(documents, {}))) == documents


def test_reasons_stand_above_what_they_are_for():
    document = Noted(
        "Two.\nLines.", spec={"limit": 3, "ways": [Noted("One.", to="a"), {"to": "b"}]}
    )
    assert to_yaml([document], {"spec.limit": "So many."}) == (
        "---\n# Two.\n# Lines.\nspec:\n  # So many.\n  limit: 3\n  ways:\n  # One.\n"
        "  - to: a\n  - to: b\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("---\na: 1\n---\n---\nb: yes\n", id="YAML, and an empty document"),
        pytest.param("kind: List\nitems: [{a: 1}, {b: true}]\n", id="a List in YAML"),
        pytest.param(json.dumps({"kind": "List", "items": [{"a": 1}, {"b": True}]}), id="in JSON"),
    ],
)
def test_documents_are_read_one_by_one(text):
    assert read(text, "a file") == [{"a": 1}, {"b": True}]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("stringData:\n  token: CANARY: x\n", id="a value with a colon"),
        pytest.param("token: 'CANARY\n", id="half of its quotes"),
        pytest.param("? [CANARY]\n: 1\n", id="a list for a name"),
        pytest.param("a: 2026-99-99 # CANARY\n", id="a day that is none"),
        pytest.param("[" * 100_000, id="lists in lists without end"),
    ],
)
def test_what_cannot_be_read_is_told_without_what_stands_there(text):
    with pytest.raises(ConfigurationError, match="a file is no YAML") as raised:
        read(text, "a file")
    assert "CANARY" not in str(raised.value)
