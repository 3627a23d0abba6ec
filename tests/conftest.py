"""What every test may use, and strict runs: with RUNNER_TEST_STRICT=1 a skipped test fails."""

import os

import pytest
from containers import engine, image, recipe  # noqa: F401 # fixtures
from far_stores import S3Server
from own_servers import database_url, postgres, redis_server  # noqa: F401 # fixtures
from peers import certificate, tls, trust  # noqa: F401 # fixtures
from wheels import ROOT, build_wheel

# What a test needs that uses a fixture, as a mark.
MARKS = {"engine": "docker", "redis_server": "redis", "postgres": "postgres"}
STRICT = os.environ.get("RUNNER_TEST_STRICT") == "1"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Our own wheel, built once a run."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def s3_server():
    """A server that speaks S3, for the whole run."""
    with S3Server() as server:
        yield server


def _fail_if_skipped(report):
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason} - and RUNNER_TEST_STRICT=1 allows no skipped test"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        for fixture in MARKS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKS[fixture])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _fail_if_skipped((yield))
