"""The attack corpus: its cases, ready to be parametrised."""

import json
from pathlib import Path

import pytest

CORPUS = json.loads((Path(__file__).parent / "attack_corpus.json").read_text("utf-8"))
ISSUE = 1  # cases become due with a piece of work; this is the one that is done


def due(*groups):
    """The cases of *groups* that are due, as pytest parameters."""
    return [
        pytest.param(case, id=f"{case['id']} {case['title']}")
        for case in CORPUS["cases"]
        if case["group"] in groups and case["issue"] <= ISSUE
    ]
