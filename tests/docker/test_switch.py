"""Switching between the engine in the application's processes and a container."""

import pytest
from containers import container
from counting import counting_home, environment, switch_under_load


@pytest.mark.slow
def test_twenty_switches_under_load_lose_and_double_nothing(engine, image, tmp_path):
    home = counting_home(tmp_path)
    sockets = home / "run"
    sockets.mkdir(mode=0o711)
    options = (
        f"--volume={home / 'bundles'}:/bundles:ro",
        f"--volume={sockets}:/run/runnerwsgi:ro",
        "--tmpfs=/tmp",
    )
    with container(engine, image, f"{image.replace(':', '-')}-switched", *options) as started:
        switch_under_load(home, environment(home, started.url), switches=20)
