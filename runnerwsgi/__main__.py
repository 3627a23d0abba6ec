"""``python -m runnerwsgi`` is the command ``runnerwsgi``."""

from .cli import main

main()
