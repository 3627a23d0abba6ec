"""The workshop as a WSGI application, with extensions.

Run it: ``runnerwsgi serve workshop.wsgi:application``, or any WSGI server.
"""

import os
from importlib import import_module

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import parse_cookie

from runnerwsgi import Principal, RunnerMiddleware

from .people import of_session

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "workshop.settings")
django = get_wsgi_application()
SessionStore = import_module(settings.SESSION_ENGINE).SessionStore


def identify(environ):
    """Who is calling an extension: whoever has a session here."""
    cookies = parse_cookie(environ.get("HTTP_COOKIE", ""))
    person = of_session(SessionStore(cookies.get(settings.SESSION_COOKIE_NAME)))
    return person and Principal(
        tenant_id="default",
        user_id=person.key,
        user_name=person.name,
        roles={person.role},
        additional_fields={"role": person.role},
    )


application = RunnerMiddleware.from_env(django, identify=identify)
