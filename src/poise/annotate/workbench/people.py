"""One's own account (password, personal token), and for admins everybody's: invitations, closing and opening."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from poise.annotate.workbench.desk import Link
from poise.annotate.workbench.settings import ROLES
from poise.annotate.workbench.visit import SESSION, Refused, Visit, signed_in
from poise.errors import PoiseError


@signed_in()
def account(visit: Visit) -> Response:
    """Password and personal token; a new token is shown once."""
    accounts, who, token, fault = visit.desk.accounts, visit.who, "", ""
    if visit.posted:
        what = visit.text("do")
        if what == "password":
            if (wait := visit.desk.sign_ins.wait_s(f"name {who.name}")) > 0:
                raise Refused(429, f"Too many attempts. Wait {wait:.0f} seconds.", wait)
            try:
                accounts.change_password(who, visit.text("old"), visit.text("new"))
            except PoiseError as error:
                fault = f"{error.what[:1].upper()}{error.what[1:]}: {error.do}."
                return visit.render("account.html", 400, token="", fault=fault)
            visit.desk.forget_sessions()
            response = visit.go("/sign-in")
            response.delete_cookie(SESSION, httponly=True, samesite="strict", path="/")
            return response
        if what == "token":
            token = accounts.new_token(who)
        elif what == "drop":
            accounts.drop_token(who)
        else:
            raise Refused(400, "This cannot be done here.")
        visit.desk.forget_sessions()
        if what == "drop":
            return visit.go("/account")
    return visit.render("account.html", token=token, fault=fault)


@signed_in(role="admin")
def people(visit: Visit) -> Response:
    """All accounts. A new invitation is shown once, as a link."""
    accounts, link = visit.desk.accounts, ""
    if visit.posted:
        what, key = visit.text("do"), visit.text("account")
        if what == "invite":
            token = accounts.invite(visit.text("role"), visit.desk.settings.invitation_hours)
            link = f"{visit.request.url.scheme}://{visit.request.url.netloc}/join#{token}"
        elif what in ("close", "open") and key.isascii() and key.isdigit() and len(key) < 18:
            if int(key) == visit.who.id:
                raise Refused(400, "Nobody closes the account they are signed in with.")
            accounts.set_active(int(key), what == "open")
            visit.desk.forget_sessions()
            return visit.go("/people")
        else:
            raise Refused(400, "This cannot be done here.")
    return visit.render("people.html", accounts=accounts.all(), roles=ROLES, link=link)


ROUTES = [
    Route("/account", account, methods=["GET", "POST"]),
    Route("/people", people, methods=["GET", "POST"]),
]
NAV = [Link("/people", "People", role="admin")]
