"""The attack corpus: its cases, ready to be parametrised, and where each of them is run."""

import json
from pathlib import Path

import pytest

CORPUS = json.loads((Path(__file__).parent / "attack_corpus.json").read_text("utf-8"))
ISSUE = 3  # cases become due with a piece of work; this is the one that is done
DUE = [case for case in CORPUS["cases"] if case["issue"] <= ISSUE]

# Which module runs what: by layer and, where one layer has several homes, by component.
MODULES = {
    "wsgi": "test_wsgi",
    "config": "test_config",
    "bundle": "test_bundle_archive",
    "envelope": "test_envelope",
    "upstream": "test_remote",
    "runner-http": "test_runner",
    "runner.egress": "test_egress",
    "runner.engine": "test_engine",
    "docker.image": "test_container",
}


def module_of(case):
    """The module that runs *case*; None where there is none."""
    return MODULES.get(case["input"]["layer"]) or MODULES.get(case["component"])


def title_of(case):
    """The id of a case's test."""
    return f"{case['id']} {case['title']}"


def due(module, *, besides=()):
    """The due cases of a test module, as pytest parameters, *besides* those that it runs apart."""
    return [
        pytest.param(case, id=title_of(case))
        for case in DUE
        if module_of(case) == module and case["id"] not in besides
    ]
