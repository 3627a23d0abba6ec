"""The workshop's views: the bench, and clocking in and out."""

from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from .people import PEOPLE, of_session


@require_safe
def bench(request):
    """The one page: the bicycle on the bench, and its notes for whoever is clocked in."""
    context = {"person": of_session(request.session), "people": PEOPLE.values()}
    return render(request, "bench.html", context)


@require_POST
def clock_in(request):
    """Start a session. The demo has no passwords; django.contrib.auth has."""
    if request.POST.get("person") in PEOPLE:
        request.session["person"] = request.POST["person"]
    return redirect("bench")


@require_POST
def clock_out(request):
    """End the session."""
    request.session.flush()
    return redirect("bench")
