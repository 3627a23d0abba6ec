"""Every case of the corpus that is due is run, and by one module."""

import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from corpus.cases import CORPUS, ISSUE

# Which module runs what, by group and, where one group has several homes, by component.
MODULES = {
    "path": "test_wsgi",
    "header": "test_wsgi",
    "method": "test_wsgi",
    "body": "test_wsgi",
    "auth-identity": "test_wsgi",
    "config": "test_config",
    "bundle-archive": "test_bundle_archive",
    "runner.egress": "test_egress",
    "runner.engine": "test_engine",
}
DUE = [case for case in CORPUS["cases"] if case["issue"] <= ISSUE]
_NODE = re.compile(r"corpus/(\w+)\.py::\w+\[([A-Z]-\d{3}) ", re.ASCII)


@pytest.fixture(scope="module")
def modules_by_id(pytestconfig):
    """For every id that pytest collects in this folder, the modules that run it."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/corpus"]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    found = defaultdict(set)
    for module, case_id in _NODE.findall(done.stdout):
        found[case_id].add(module)
    return found


def test_all_due_cases_are_in_the_file():
    assert len(DUE) == 270
    assert set(Counter(case["id"] for case in CORPUS["cases"]).values()) == {1}


def test_each_due_case_is_run_by_its_module(modules_by_id):
    expected = {
        case["id"]: {MODULES.get(case["group"]) or MODULES[case["component"]]} for case in DUE
    }
    assert {case_id: modules_by_id.get(case_id) for case_id in expected} == expected


@pytest.mark.parametrize("change", CORPUS.get("changed", []), ids=lambda change: change["id"])
def test_a_change_of_a_case_names_the_case_and_the_reason(change):
    assert change["id"] in {case["id"] for case in CORPUS["cases"]}
    assert change["change"]
    assert change["reason"]
