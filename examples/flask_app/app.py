"""Fernhill Supply with extensions: the last line is all it takes.

Run it: ``runnerwsgi serve app:application``, or any WSGI server.
"""

from __future__ import annotations

from typing import Any

from shop import create_app, current_user

from runnerwsgi import Principal, RunnerMiddleware

app = create_app()


def identify(environ: dict[str, Any]) -> Principal | None:
    """Who is calling an extension: whoever is signed in here."""
    with app.request_context(environ.copy()):
        user = current_user()
    return user and Principal(
        tenant_id="default",
        user_id=user.user_id,
        user_email=user.email,
        user_name=user.name,
        roles=frozenset({user.role}),
        additional_fields={"role": user.role, "title": user.title},
    )


application = RunnerMiddleware.from_env(app, identify=identify)
