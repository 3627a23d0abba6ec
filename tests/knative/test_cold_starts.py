"""A service that is scaled to zero: whoever waits for it gets an answer and no error."""

import pytest
from counted import caller, runner_variables
from counting import counting_home
from envoy import envoy
from knative_double import double
from switching import entries_of

CALLERS = 16
STARTS = 20
# As the manifest has it; what is above it waits in the activator and not in the runner.
CONCURRENCY = 4


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return counting_home(tmp_path_factory.mktemp("cold"))


@pytest.mark.slow
def test_nobody_gets_an_error_that_waiting_spares(home, tmp_path):
    cold = {}
    env = runner_variables(home)
    with (
        double(tmp_path / "pods", pods=0, concurrency=CONCURRENCY, env=env) as knative,
        envoy("kourier", knative.activator.url) as ingress,
        caller(home, ingress.address, RUNNER_THREADS="64") as application,
    ):
        for start in range(STARTS):
            names = [f"{start}-{one}" for one in range(CALLERS)]
            answers = application.calls(names)
            assert {answer.status for answer in answers} == {200}, answers
            cold[start] = sum("cold;dur=" in answer.header("Server-Timing") for answer in answers)
            knative.scale(0)
        assert knative.started == STARTS
    assert entries_of(home) == {
        f"/{start}-{one}": (1, "calls") for start in range(STARTS) for one in range(CALLERS)
    }
    assert min(cold.values()) >= 1, cold
