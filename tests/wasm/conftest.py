"""One backend for the tests that only run guests; a fresh one for those that look at caches."""

import pytest
from wasm.rig import Rig


@pytest.fixture(scope="session")
def rig(tmp_path_factory):
    made = Rig(tmp_path_factory.mktemp("wasm"))
    yield made
    made.backend.runner_close()


@pytest.fixture
def fresh(tmp_path):
    made = []

    def make(**options):
        made.append(Rig(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.backend.runner_close()
