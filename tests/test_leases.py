"""A value that is replaced while it is in use."""

import os
import threading
import time

from runnerwsgi.leases import Leases


def test_whoever_holds_the_old_value_keeps_it():
    leases = Leases("old")
    with leases.hold() as value:
        retired = leases.replace("new")
        assert value == "old"
        with leases.hold() as later:
            assert later == "new"
        assert not leases.wait(retired, seconds=0)
    assert leases.wait(retired, seconds=0)


def test_an_exception_gives_the_value_back():
    leases = Leases("old")
    try:
        with leases.hold():
            raise LookupError
    except LookupError:
        pass
    assert leases.wait(leases.replace("new"), seconds=0)


def test_the_last_holder_ends_the_wait():
    leases = Leases("old")
    held, go = threading.Barrier(4), threading.Event()

    def hold():
        with leases.hold():
            held.wait(5)
            go.wait(5)

    holders = [threading.Thread(target=hold) for _ in range(3)]
    for holder in holders:
        holder.start()
    held.wait(5)
    retired = leases.replace("new")
    assert not leases.wait(retired, seconds=0.05)
    go.set()
    began = time.monotonic()
    assert leases.wait(retired, seconds=10)
    assert time.monotonic() - began < 5
    for holder in holders:
        holder.join()


def test_a_forked_child_waits_for_no_thread_of_its_parent():
    leases = Leases("old")
    held, go = threading.Event(), threading.Event()

    def hold():
        with leases.hold():
            held.set()
            go.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(5)
    pid = os.fork()
    if not pid:
        os._exit(0 if leases.wait(leases.replace("new"), seconds=0) else 1)
    go.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
