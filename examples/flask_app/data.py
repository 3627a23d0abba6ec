"""What a database would hold: the shop's people, customers and orders."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

from werkzeug.security import generate_password_hash


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who signs in. ``role`` is ``admin`` or ``sales``."""

    user_id: str
    name: str
    email: str
    role: str
    title: str
    password_hash: str


@dataclass(frozen=True, slots=True)
class Customer:
    """A garden centre or a landscaper that buys here."""

    slug: str
    name: str
    town: str
    contact: str
    since: int


@dataclass(frozen=True, slots=True)
class Order:
    """One order. ``status`` is one of :data:`STATUSES`, ``total`` is in euros."""

    number: int
    customer: Customer
    placed: date
    items: int
    total: float
    status: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``/api/orders``."""
        return asdict(self) | {"customer": self.customer.name, "placed": self.placed.isoformat()}


STATUSES = ("open", "shipped", "late", "paid")
PASSWORD = "fernhill"  # the demo's, shown on its sign-in page

_HASH = generate_password_hash(PASSWORD)
USERS = {
    user.email: user
    for user in (
        User("u-mara", "Mara Lindqvist", "mara@fernhill.example", "admin", "Manager", _HASH),
        User("u-jonas", "Jonas Weber", "jonas@fernhill.example", "sales", "Sales", _HASH),
    )
}

CUSTOMERS = {
    customer.slug: customer
    for customer in (
        Customer("greenway", "Greenway Garden Centre", "Lübeck", "Ilse Brandt", 2016),
        Customer("harlow-sons", "Harlow & Sons Landscaping", "York", "Tom Harlow", 2019),
        Customer("orto-botanico", "Orto Botanico Rossi", "Padua", "Giulia Rossi", 2021),
    )
}

# customer, days ago, items, total, status
_ORDERS = (
    ("greenway", 1, 24, 1840.50, "open"),
    ("harlow-sons", 2, 6, 412.00, "open"),
    ("orto-botanico", 3, 41, 3275.90, "shipped"),
    ("greenway", 6, 12, 968.20, "shipped"),
    ("harlow-sons", 9, 18, 1204.75, "late"),
    ("greenway", 13, 30, 2410.00, "paid"),
    ("orto-botanico", 15, 9, 655.40, "paid"),
    ("harlow-sons", 21, 52, 4180.00, "paid"),
    ("greenway", 27, 16, 1122.60, "paid"),
)


def orders(status: str | None = None, customer: Customer | None = None) -> list[Order]:
    """All orders, newest first, or those of one status or customer."""
    today = date.today()
    made = [
        Order(4312 - row, CUSTOMERS[slug], today - timedelta(days=days), items, total, state)
        for row, (slug, days, items, total, state) in enumerate(_ORDERS)
    ]
    return [
        order
        for order in made
        if status in (None, order.status) and customer in (None, order.customer)
    ]
