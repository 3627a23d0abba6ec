import itertools
import time

import pytest

from runnerwsgi.errors import (
    BackendStarting,
    BackendUnreachable,
    BadRunnerResponse,
    DeadlineExceeded,
    IdempotencyInFlight,
    OutcomeUnknown,
    Overloaded,
)
from runnerwsgi.retries import IN_A_ROW, SAVINGS, WINDOW_CALLS, Breaker, Retries


class Script:
    """Fails as it is told, then answers."""

    def __init__(self, *failures):
        self.failures = iter(failures)
        self.tries = []

    def __call__(self, number):
        self.tries.append(number)
        failure = next(self.failures, None)
        if failure is not None:
            raise failure
        return "answer"


def run(script, *, retries=None, seconds=5.0, again=False):
    retries = retries or Retries()
    return retries.run(script, deadline=time.monotonic() + seconds, again=lambda: again)


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(BackendUnreachable("refused"), id="no connection"),
        pytest.param(BackendStarting("starting", soon=True), id="no pod yet"),
        pytest.param(Overloaded("queue full", soon=True), id="a full queue"),
    ],
)
def test_what_was_not_executed_is_tried_twice_more(failure):
    script = Script(failure, failure)
    assert run(script) == "answer"
    assert script.tries == [0, 1, 2]
    script = Script(failure, failure, failure)
    with pytest.raises(type(failure)):
        run(script)
    assert script.tries == [0, 1, 2]


def test_what_may_have_been_executed_is_tried_again_only_where_that_is_safe():
    script = Script(OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        run(script)
    assert script.tries == [0]
    script = Script(OutcomeUnknown("lost"))
    assert run(script, again=True) == "answer"


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(OutcomeUnknown("our time is over", final=True), id="unknown for good"),
        pytest.param(DeadlineExceeded("late"), id="a deadline"),
        pytest.param(BadRunnerResponse("rubbish"), id="an answer"),
        pytest.param(Overloaded("the runner says so", retry_after=1), id="a runner that refuses"),
        pytest.param(IdempotencyInFlight("running"), id="a repeated call that runs"),
    ],
)
def test_what_would_only_fail_again_is_not_tried_again(failure):
    script = Script(failure)
    with pytest.raises(type(failure)):
        run(script, again=True)
    assert script.tries == [0]


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(BackendUnreachable("refused"), id="then nobody listens"),
        pytest.param(DeadlineExceeded("late"), id="then there is no time to connect"),
        pytest.param(BadRunnerResponse("a redirect"), id="then something else answers"),
    ],
)
def test_a_call_that_may_have_been_executed_stays_unknown(later):
    first = OutcomeUnknown("lost")
    with pytest.raises(OutcomeUnknown) as caught:
        run(Script(first, later, later), again=True)
    assert caught.value is first


def test_a_first_try_that_still_runs_is_waited_for(monkeypatch):
    monkeypatch.setattr("runnerwsgi.retries.WAITS", (0.01,) * 4)
    script = Script(OutcomeUnknown("lost"), *[IdempotencyInFlight("running")] * 4)
    retries = Retries()
    assert run(script, retries=retries, again=True) == "answer"
    # It is no failure: it costs nothing of what may be tried again.
    assert script.tries == [0, 1, 2, 3, 4, 5]
    assert retries._saved == SAVINGS - 1


def test_a_first_try_that_runs_for_longer_than_its_caller_waits_stays_unknown():
    first = OutcomeUnknown("lost")
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown) as caught:
        run(Script(first, *[IdempotencyInFlight("running")] * 50), seconds=0.4, again=True)
    assert caught.value is first
    assert time.monotonic() - started < 2


def test_a_first_try_that_nobody_ends_is_not_waited_for_until_the_deadline(monkeypatch):
    monkeypatch.setattr("runnerwsgi.retries.WAITS", (0.01,) * 4)
    first = OutcomeUnknown("lost")
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown) as caught:
        run(Script(first, *[IdempotencyInFlight("running")] * 50), seconds=30, again=True)
    assert caught.value is first
    assert time.monotonic() - started < 2


def test_nothing_is_tried_after_the_deadline():
    script = Script(*itertools.repeat(BackendUnreachable("refused"), 3))
    with pytest.raises(BackendUnreachable):
        run(script, seconds=0)
    assert script.tries == [0]


def test_who_watches_hears_of_every_failure():
    heard = []
    Retries().run(
        Script(BackendUnreachable("refused")),
        deadline=time.monotonic() + 5,
        again=lambda: False,
        on_failure=lambda exc, number, pause: heard.append((str(exc), number, pause < 0.1)),
    )
    assert heard == [("refused", 0, True)]


def test_retries_are_a_fifth_of_the_calls_at_most(monkeypatch):
    monkeypatch.setattr("runnerwsgi.retries.PAUSE_SECONDS", 0.001)
    retries = Retries()
    tries = 0
    calls = 200
    for _ in range(calls):
        retries.breaker = Breaker()
        script = Script(*[BackendUnreachable("refused")] * 3)
        with pytest.raises(BackendUnreachable):
            run(script, retries=retries)
        tries += len(script.tries)
    assert calls * 1.15 < tries <= calls * 1.2 + SAVINGS


# The breaker


def fail(breaker, exc=None):
    with pytest.raises(BackendUnreachable), breaker.watching():
        raise exc or BackendUnreachable("refused")


def succeed(breaker):
    with breaker.watching():
        pass


@pytest.fixture
def later(monkeypatch):
    """Lets a number of seconds pass, counted from the beginning of the test."""
    began = time.monotonic()
    return lambda seconds: monkeypatch.setattr(
        "runnerwsgi.retries.time.monotonic", lambda: began + seconds
    )


def test_after_five_failures_in_a_row_nothing_is_sent(later):
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        assert not breaker.is_open
        fail(breaker)
    assert breaker.is_open
    with pytest.raises(Overloaded) as caught, breaker.watching():
        raise AssertionError("it was sent")
    assert 1 <= caught.value.retry_after <= 5
    later(5.1)
    succeed(breaker)
    assert not breaker.is_open
    fail(breaker)
    assert not breaker.is_open


def test_when_half_of_twenty_fail_nothing_is_sent(later):
    breaker = Breaker()
    for number in range(WINDOW_CALLS // 2):
        later(number / 2)
        succeed(breaker)
        assert not breaker.is_open
        fail(breaker)
    assert breaker.is_open


def fail_together(breaker, calls):
    held = [breaker.watching() for _ in range(calls)]
    for one in held:
        one.__enter__()
    for one in held:
        assert not one.__exit__(BackendUnreachable, BackendUnreachable("gone"), None)


def test_a_pod_that_dies_with_all_its_calls_has_failed_once(later):
    breaker = Breaker()
    for second in range(10):
        later(second)
        for _ in range(WINDOW_CALLS + 1):
            succeed(breaker)
        fail_together(breaker, WINDOW_CALLS)
        assert not breaker.is_open


def test_calls_that_fail_together_again_and_again_open_it(later):
    breaker = Breaker()
    for number in range(IN_A_ROW):
        later(number / 10)
        assert not breaker.is_open
        fail_together(breaker, WINDOW_CALLS)
    assert breaker.is_open


def test_each_trial_that_fails_doubles_the_time(later):
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        fail(breaker)
    waited = 0.0
    for seconds in (5, 10, 20, 40, 60, 60):
        later(waited + seconds - 0.5)
        assert breaker.is_open
        later(waited := waited + seconds + 0.5)
        assert not breaker.is_open
        fail(breaker)


def test_a_trial_that_takes_long_keeps_nobody_waiting(later):
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        fail(breaker)
    later(6)
    with breaker.watching():
        later(10.5)
        with pytest.raises(Overloaded) as refused, breaker.watching():
            raise AssertionError("a second one was sent")
        assert refused.value.retry_after == 1
        later(11.5)
        succeed(breaker)
        for _ in range(3):
            succeed(breaker)
        # What began as a trial is one call among others by now.
    fail(breaker)
    assert not breaker.is_open


def test_a_place_that_takes_no_connection_has_failed(monkeypatch):
    monkeypatch.setattr("runnerwsgi.retries.SILENT_SECONDS", 0.01)

    def connect():
        time.sleep(0.02)
        raise DeadlineExceeded("deadline exceeded (0.0 s) in connect")

    breaker = Breaker()
    for _ in range(IN_A_ROW):
        with pytest.raises(DeadlineExceeded), breaker.watching():
            connect()
    assert breaker.is_open


def test_who_has_no_time_to_connect_breaks_no_row_of_failures():
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        with pytest.raises(DeadlineExceeded), breaker.watching():
            raise DeadlineExceeded("deadline exceeded (0.0 s) in connect")
        fail(breaker)
    assert breaker.is_open


def test_only_one_tries_at_a_time(later):
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        fail(breaker)
    later(6)
    with breaker.watching(), pytest.raises(Overloaded), breaker.watching():
        raise AssertionError("a second one was sent")
    succeed(breaker)


@pytest.mark.parametrize(
    "exc",
    [
        pytest.param(BadRunnerResponse("rubbish"), id="an answer of the runner"),
        pytest.param(DeadlineExceeded("late"), id="a guest that takes long"),
        pytest.param(Overloaded("full"), id="a full queue"),
        pytest.param(OutcomeUnknown("late", final=True), id="our own deadline"),
    ],
)
def test_what_says_nothing_against_the_runner_does_not_count(exc):
    breaker = Breaker()
    for _ in range(3 * IN_A_ROW):
        with pytest.raises(type(exc)), breaker.watching():
            raise exc
    assert not breaker.is_open
