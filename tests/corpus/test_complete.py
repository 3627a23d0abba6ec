"""Every case of the corpus that is due is run, and by one module."""

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
from corpus.cases import CORPUS, DUE, MODULES, module_of

_QUOTED_ID = re.compile(r'"([A-Z]-\d{3})"', re.ASCII)


def ids_run_by(name):
    """The cases that a module's tests are parametrised with, or that its source names."""
    module = importlib.import_module(f"corpus.{name}")
    marks = [mark for test in vars(module).values() for mark in getattr(test, "pytestmark", ())]
    rows = [row for mark in marks if mark.name == "parametrize" for row in mark.args[1]]
    values = [getattr(row, "values", [row])[0] if isinstance(row, tuple) else row for row in rows]
    given = {value["id"] for value in values if isinstance(value, dict) and "id" in value}
    return given | set(_QUOTED_ID.findall(Path(module.__file__).read_text("utf-8")))


def test_all_due_cases_are_in_the_file():
    assert len(DUE) == 457
    assert set(Counter(case["id"] for case in CORPUS["cases"]).values()) == {1}


@pytest.mark.parametrize("module", sorted(MODULES.values()))
def test_each_due_case_is_run_by_its_module(module):
    due = {case["id"] for case in DUE if module_of(case) == module}
    assert due
    assert due <= ids_run_by(module)


def test_each_due_case_has_a_module():
    assert all(map(module_of, DUE))


@pytest.mark.parametrize("change", CORPUS.get("changed", []), ids=lambda change: change["id"])
def test_a_change_of_a_case_names_the_case_and_the_reason(change):
    assert change["id"] in {case["id"] for case in CORPUS["cases"]}
    assert change["change"]
    assert change["reason"]
