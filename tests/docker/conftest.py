"""Boxes: one for each test, and one that is up for all tests of a module."""

import pytest
from boxes import box as boxed


@pytest.fixture
def box(engine, image, tmp_path):
    """Nothing is up in it yet."""
    with boxed(engine, image, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def running(engine, image, tmp_path_factory):
    """One that is up; tests leave it as it is."""
    with boxed(engine, image, tmp_path_factory.mktemp("box")) as made:
        made.up()
        yield made
