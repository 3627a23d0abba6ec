"""The workshop's addresses. The extensions' own are the middleware's."""

from django.urls import path

from . import views

urlpatterns = [
    path("", views.bench, name="bench"),
    path("clock-in", views.clock_in, name="clock_in"),
    path("clock-out", views.clock_out, name="clock_out"),
]
