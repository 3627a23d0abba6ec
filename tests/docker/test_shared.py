"""Which folder of bundles the container sees: the one that the application reads."""

import pytest
from runnerwsgi_docker.shared import Shared

from runnerwsgi import Settings


@pytest.mark.parametrize(
    "store",
    [
        pytest.param("{}/kept here", id="a path"),
        pytest.param("file://{}/kept%20here", id="a file URL"),
        pytest.param("file:{}/kept%20here", id="a file URL without slashes"),
        pytest.param("file://localhost{}/kept%20here", id="a file URL of this host"),
    ],
)
def test_a_folder_is_the_one_that_the_application_reads(tmp_path, store):
    settings = Settings(home=tmp_path / "home", bundle_store=store.format(tmp_path))
    assert Shared.of(settings).bundles == tmp_path / "kept here"


@pytest.mark.parametrize("store", ["https://bundles.test/all", "s3://bundles", "HTTPS://b.test"])
def test_bundles_that_are_elsewhere_leave_an_empty_folder_of_the_home(tmp_path, store):
    settings = Settings(home=tmp_path / "home", bundle_store=store)
    assert Shared.of(settings).bundles == tmp_path / "home" / "bundles"
