"""An answer that is lost on the way: what an ingress, a gateway and runners make of it together."""

import sqlite3
import threading
import time
from contextlib import closing, contextmanager

import pytest
from counted import caller, runner_variables
from counting import counting_home
from envoy import PROFILES, envoy
from servers import runner
from wires import wires


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return counting_home(tmp_path_factory.mktemp("once"))


@contextmanager
def two_runners(home, folder, **env):
    """Two runners, and the wires to them."""
    env = runner_variables(home) | env
    with (
        runner(folder / "a", **env) as one,
        runner(folder / "b", **env) as other,
        wires(one.url, other.url) as ways,
    ):
        yield ways


@pytest.fixture(scope="module")
def forgetful(home, tmp_path_factory):
    """The wires to two runners, each of which knows of its own calls alone."""
    with two_runners(home, tmp_path_factory.mktemp("forgetful")) as ways:
        yield ways


@pytest.fixture(scope="module")
def sharing(home, tmp_path_factory):
    """The wires to two runners with one store of idempotency keys."""
    folder = tmp_path_factory.mktemp("sharing")
    url = f"sqlite:///{folder}/keys.db"
    with two_runners(home, folder, RUNNER_IDEMPOTENCY_URL=url) as ways:
        yield ways


@pytest.fixture(scope="module", params=PROFILES)
def profile(request):
    return request.param


@pytest.fixture(scope="module")
def ingress(profile):
    with envoy(profile) as started:
        yield started


@pytest.fixture
def application(home, ingress):
    """One that has just begun: it has heard of no runner yet."""
    with caller(home, ingress.address) as made:
        yield made


def test_what_contour_repeats_is_executed_again_without_a_common_store(
    application, forgetful, ingress, profile
):
    ingress.point(*forgetful.urls)
    forgetful.cut()
    answer = application.call(f"forgetful-{profile}")
    expected = {"kourier": ("outcome-unknown", 1), "contour": ("ok", 2)}
    told = "ok" if answer.status == 200 else answer.code
    assert (told, application.executed(f"forgetful-{profile}")) == expected[profile]


@pytest.mark.parametrize(
    ("cuts", "in_body"),
    [
        pytest.param(1, False, id="cut before its headers"),
        pytest.param(2, False, id="cut twice before its headers"),
        pytest.param(1, True, id="cut in its body"),
    ],
)
def test_a_post_is_executed_once_whoever_repeats_it(
    application, sharing, ingress, profile, cuts, in_body
):
    ingress.point(*sharing.urls)
    name = f"{profile}-{cuts}-{in_body}"
    assert application.call(f"{name}-first").status == 200
    before, repeated = sharing.cuts, ingress.count("upstream_rq_retry")
    sharing.cut(cuts, in_body=in_body)
    answer = application.call(name)
    assert (answer.status, application.executed(name)) == (200, 1)
    assert sharing.cuts == before + cuts
    by_ingress = ingress.count("upstream_rq_retry") - repeated
    assert by_ingress == (cuts if profile == "contour" and not in_body else 0)


@contextmanager
def writing(home, seconds):
    """Somebody else writes to the database for so long: what a guest stores waits."""
    begun = threading.Event()

    def write():
        with closing(sqlite3.connect(home / "runnerwsgi.db", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            begun.set()
            time.sleep(seconds)
            database.execute("ROLLBACK")

    writer = threading.Thread(target=write)
    writer.start()
    assert begun.wait(5)
    yield
    writer.join()


def test_a_call_that_is_repeated_while_it_runs_has_the_answer_of_the_first(
    application, sharing, ingress, profile
):
    ingress.point(*sharing.urls)
    name = f"running-{profile}"
    assert application.call(f"{name}-first").status == 200
    cuts = sharing.cuts
    with writing(application.home, seconds=1.0):
        sharing.cut_running(after=0.3)
        answer = application.call(name)
    assert sharing.cuts == cuts + 1
    assert (answer.status, application.executed(name)) == (200, 1)


def test_a_gateway_that_has_heard_of_no_store_asks_again_with_its_callers_help(
    application, sharing, ingress, profile
):
    ingress.point(*sharing.urls)
    name = f"unheard-{profile}"
    sharing.cut(in_body=True)
    unknown = application.call(name)
    assert (unknown.status, unknown.code) == (504, "outcome-unknown")
    assert application.executed(name) == 1
    again = application.call(name, key=unknown.json["idempotency_key"])
    assert (again.status, application.executed(name)) == (200, 1)


def test_no_pod_left_is_told_with_the_key_since_one_may_have_executed_it(
    application, sharing, ingress, profile
):
    ingress.point(*sharing.urls)
    name = f"emptied-{profile}"
    assert application.call(f"{name}-first").status == 200
    sharing.cut(also=ingress.point)
    lost = application.call(name)
    # Contour had a second try, which found nobody; of its first it tells nothing.
    codes = {"kourier": "outcome-unknown", "contour": "backend-starting"}
    assert (lost.code, application.executed(name)) == (codes[profile], 1)
    ingress.point(*sharing.urls)
    again = application.call(name, key=lost.json["idempotency_key"])
    assert (again.status, application.executed(name)) == (200, 1)
