"""Who works here. A project with a database asks ``request.user`` instead."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody of the workshop; ``role`` is ``admin`` or ``mechanic``."""

    key: str
    name: str
    role: str


PEOPLE = {
    person.key: person
    for person in (Person("ada", "Ada Okafor", "admin"), Person("ben", "Ben Sato", "mechanic"))
}


def of_session(session):
    """The signed-in person of a session, or None."""
    return PEOPLE.get(session.get("person"))
