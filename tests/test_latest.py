"""What was found last is told at once, and looked for again aside."""

import threading
import time
from itertools import chain, repeat

from runnerwsgi.latest import Latest


def took(act):
    started = time.monotonic()
    act()
    return time.monotonic() - started


def until(fact, seconds=5):
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_only_who_has_nothing_waits_for_a_look():
    answers, may_answer = chain(["first"], repeat("second")), threading.Semaphore(1)

    def look():
        may_answer.acquire(timeout=5)
        return next(answers)

    latest = Latest(look, lost="lost", seconds=0.0)
    assert latest.get(5) == "first"
    assert took(lambda: latest.get(5)) < 0.5  # the second look hangs, the first one's is told
    assert latest.get(5) == "first"
    may_answer.release()
    until(lambda: latest.get(5) == "second")


def test_what_is_known_is_not_looked_for_again():
    looks = []
    latest = Latest(lambda: looks.append(1) or "found", lost="lost")
    assert {latest.get(5) for _ in range(100)} == {"found"}
    assert len(looks) == 1


def test_many_that_ask_at_once_are_one_look():
    looks, release = [], threading.Event()

    def look():
        looks.append(1)
        release.wait(5)
        return "found"

    latest, found = Latest(look, lost="lost"), []
    askers = [threading.Thread(target=lambda: found.append(latest.get(5))) for _ in range(8)]
    for asker in askers:
        asker.start()
    release.set()
    for asker in askers:
        asker.join()
    assert (found, len(looks)) == (["found"] * 8, 1)


def test_what_was_found_long_ago_is_waited_for(monkeypatch):
    answers = chain(["first"], repeat("second"))
    latest = Latest(lambda: next(answers), lost="lost", seconds=0.0)
    assert latest.get(5) == "first"
    monkeypatch.setattr("runnerwsgi.latest.OLD_SECONDS", 0.001)
    time.sleep(0.01)
    monkeypatch.setattr("runnerwsgi.latest.OLD_SECONDS", 0.005)
    assert latest.get(5) == "second"


def test_nothing_is_found_in_no_time():
    release = threading.Event()
    latest = Latest(lambda: release.wait(5), lost="lost")
    assert latest.get(0.01) is None
    release.set()
    assert latest.get(5) is True


def test_a_look_that_fails_is_a_finding_of_its_own(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    latest = Latest(lambda: 1 / 0, lost="lost")
    assert latest.get(5) == "lost"


def test_what_was_told_needs_no_look():
    latest = Latest(lambda: 1 / 0, lost="lost")
    latest.told("said so")
    assert latest.get(0) == "said so"
