"""Fernhill Supply: a small wholesale shop. It knows nothing of extensions but one element."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import data
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    jsonify,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from werkzeug.security import check_password_hash

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

pages = Blueprint("pages", __name__)

# The page's own fence: scripts and frames from this origin only. The extension's frame is from
# this origin too, and sandboxed.
CONTENT_SECURITY_POLICY = "default-src 'self'; frame-ancestors 'none'; form-action 'self'"


def create_app() -> Flask:
    """The shop as a WSGI application."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=_secret_key(Path(app.instance_path)),
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_HTTPONLY=True,
    )
    app.register_blueprint(pages)
    app.before_request(check_form)
    app.after_request(add_headers)
    app.context_processor(lambda: {"user": current_user(), "csrf": csrf_token()})
    app.template_filter("euros")(lambda amount: f"€\N{NO-BREAK SPACE}{amount:,.2f}")
    return app


def _secret_key(folder: Path) -> str:
    """Signs the sessions: made once, kept in a file that all processes of a server share."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "secret_key"
    try:
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as new:
            new.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    return file.read_text()


def current_user() -> data.User | None:
    """Who is signed in, from the session's cookie."""
    return data.USERS.get(session.get("email", ""))


def csrf_token() -> str:
    """This session's token, which every form sends along."""
    token: str = session.setdefault("csrf", secrets.token_urlsafe(16))
    return token


def check_form() -> None:
    """Refuse forms that another site made up."""
    given = request.form.get("csrf", "") if request.method == "POST" else None
    if given is not None and not hmac.compare_digest(given.encode(), csrf_token().encode()):
        abort(400, "This form has expired. Go back, reload the page and send it again.")


def add_headers(response: Response) -> Response:
    """Say what these pages may load."""
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@pages.get("/")
def dashboard() -> ResponseReturnValue:
    """What matters today, and one customer in detail."""
    if current_user() is None:
        return redirect(url_for("pages.login"))
    customer = data.CUSTOMERS.get(request.args.get("customer", "greenway"))
    if customer is None:
        abort(404)
    return render_template(
        "dashboard.html",
        customer=customer,
        customers=data.CUSTOMERS.values(),
        orders=data.orders(customer=customer),
        totals={status: len(data.orders(status)) for status in data.STATUSES},
        revenue=sum(order.total for order in data.orders()),
    )


@pages.get("/orders")
def orders() -> ResponseReturnValue:
    """All orders, or those of one status."""
    if current_user() is None:
        return redirect(url_for("pages.login"))
    status = request.args.get("status")
    if status not in (None, *data.STATUSES):
        abort(404)
    return render_template(
        "orders.html", orders=data.orders(status), status=status, statuses=data.STATUSES
    )


@pages.get("/api/orders")
def orders_json() -> ResponseReturnValue:
    """The same as JSON."""
    if current_user() is None:
        return jsonify(error="Sign in first."), 401
    return jsonify(orders=[order.to_json() for order in data.orders(request.args.get("status"))])


@pages.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Sign in."""
    context = {"users": data.USERS.values(), "password": data.PASSWORD}
    if request.method == "GET":
        return render_template("login.html", **context)
    user = data.USERS.get(request.form.get("email", "").strip().lower())
    if user is None or not check_password_hash(
        user.password_hash, request.form.get("password", "")
    ):
        return render_template("login.html", error="E-mail or password is wrong.", **context), 401
    session.clear()  # nothing from before the sign-in stays
    session["email"] = user.email
    return redirect(url_for("pages.dashboard"))


@pages.post("/logout")
def logout() -> ResponseReturnValue:
    """Sign out."""
    session.clear()
    return redirect(url_for("pages.login"))
