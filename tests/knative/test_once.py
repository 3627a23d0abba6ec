"""An answer that is lost on the way: what an ingress, a gateway and runners make of it together."""

from contextlib import contextmanager

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
