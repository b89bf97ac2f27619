"""Coming in: invitations, passwords, tokens, sessions, roles; and the checks around every request."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from poise.annotate.store.exporting import export_tables
from poise.annotate.workbench.accounts import PSEUDONYM_KEY, hash_password, password_fits, pseudonym
from poise.annotate.workbench.app import MODULES
from poise.annotate.workbench.desk import Limiter
from poise.errors import PoiseError

from .conftest import JSON, PASSWORD, MakeSite, Person, Site


def join(site: Site, invitation: str, name: str = "ann", **more: str) -> Any:
    """Fill the form of a new browser."""
    client = site.browser()
    csrf = re.search(r'name="csrf" value="(\w+)"', client.get("/join").text)
    assert csrf
    fields = {"invitation": invitation, "name": name, "password": PASSWORD, "again": PASSWORD, "csrf": csrf[1]} | more
    return client.post("/join", data=fields, follow_redirects=False)


def sign_in(site: Site, **fields: str) -> Any:
    """From a new browser."""
    client = site.browser()
    csrf = re.search(r'name="csrf" value="(\w+)"', client.get("/sign-in").text)
    assert csrf
    return client.post("/sign-in", data={"csrf": csrf[1]} | fields, follow_redirects=False)


def test_an_invitation_works_once_and_not_for_ever(make_site: MakeSite) -> None:
    site = make_site()
    invitation = site.accounts.invite("reviewer", hours=1)
    made = join(site, invitation)
    assert made.status_code == 303 and "poise_session" in made.cookies
    cookie = made.headers["set-cookie"].casefold()
    assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
    again = join(site, invitation, "ben")
    assert again.status_code == 400 and "used or too old" in again.text
    late = site.accounts.invite("reviewer", hours=1)
    site.now[0] += 3601
    assert join(site, late, "ben").status_code == 400
    assert [(a.name, a.role) for a in site.accounts.all()] == [("ann", "reviewer")]


def test_a_bad_name_or_password_does_not_use_the_invitation_up(make_site: MakeSite) -> None:
    site = make_site()
    site.person("ann")
    invitation = site.accounts.invite("annotator")
    for fields, told in (
        ({"name": "Ann"}, "taken"),
        ({"name": "a\u202eb"}, "no usable name"),
        ({"password": "short", "again": "short"}, "no usable password"),
        ({"again": "something else"}, "differ"),
    ):
        refused = join(site, invitation, **({"name": "ben"} | fields))
        assert refused.status_code == 400 and told in refused.text.lower()
    assert join(site, invitation, "ben").status_code == 303


def test_two_at_once_get_one_account_from_one_invitation(make_site: MakeSite) -> None:
    site = make_site()
    invitation, faults = site.accounts.invite("annotator"), []

    def use(name: str) -> None:
        try:
            site.accounts.join(invitation, name, PASSWORD)
        except PoiseError as error:
            faults.append(error.what)

    threads = [threading.Thread(target=use, args=(f"p{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.accounts.all()) == 1 and len(faults) == 5


def test_sign_in_by_password_and_by_token(make_site: MakeSite) -> None:
    site = make_site()
    ann = site.person("ann")
    assert sign_in(site, name=" ANN ", password=PASSWORD).headers["location"] == "/"
    for fields in ({"name": "ann", "password": "wrong"}, {"name": "nobody", "password": PASSWORD}, {"token": "x"}):
        assert sign_in(site, **fields).status_code == 401
    shown = ann.post("/account", script=False, do="token").text
    found = re.search(r'class="secret">([\w-]{43})<', shown)
    assert found and sign_in(site, token=found[1]).status_code == 303
    assert found[1] not in str(site.sql("select * from account"))
    ann.post("/account", do="drop")
    assert sign_in(site, token=found[1]).status_code == 401


def test_signing_out_ends_the_session_and_so_does_time(make_site: MakeSite) -> None:
    site = make_site(session_hours=1)
    ann, ben = site.person("ann"), site.person("ben")
    token = ann.client.cookies["poise_session"]
    ann.post("/sign-out")
    thief = Person(site.browser(), ann.account)
    thief.client.cookies.set("poise_session", token)
    assert thief.client.get("/").url.path == "/sign-in"
    assert ben.client.get("/").url.path == "/"
    site.now[0] += 3601
    assert ben.client.get("/").url.path == "/sign-in"
    assert ben.client.get("/ahead/qa", headers=JSON).status_code == 401


def test_a_new_password_and_a_closed_account_end_all_sessions(make_site: MakeSite) -> None:
    site = make_site()
    boss, ann = site.person("boss", "admin"), site.person("ann")
    assert ann.post("/account", script=False, do="password", old="wrong", new="another long one").status_code == 400
    assert ann.post("/account", do="password", old=PASSWORD, new="another long one").status_code == 200
    assert ann.client.get("/").url.path == "/sign-in"
    assert sign_in(site, name="ann", password="another long one").status_code == 303
    ben = site.person("ben")
    assert boss.post("/people", do="close", account=str(ben.account.id)).status_code == 200
    assert ben.client.get("/").url.path == "/sign-in"
    assert sign_in(site, name="ben", password=PASSWORD).status_code == 401
    assert boss.post("/people", do="close", account=str(boss.account.id)).status_code == 400
    boss.post("/people", do="open", account=str(ben.account.id))
    assert sign_in(site, name="ben", password=PASSWORD).status_code == 303


def test_attempts_to_sign_in_are_counted_for_name_and_address(make_site: MakeSite) -> None:
    site = make_site(sign_ins=3)
    site.person("ann")
    for _ in range(3):
        assert sign_in(site, name="ann", password="guess guess").status_code == 401
    refused = sign_in(site, name="ann", password=PASSWORD)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0


def test_the_limiter_opens_again() -> None:
    now = [0.0]
    limiter = Limiter(2, 10, clock=lambda: now[0])
    assert [limiter.wait_s("a"), limiter.wait_s("a"), limiter.wait_s("a")] == [0, 0, 10]
    assert limiter.wait_s("b") == 0
    now[0] = 10
    assert limiter.wait_s("a") == 0


def test_writes_are_limited(make_site: MakeSite) -> None:
    site = make_site(writes=4)
    ann = site.person("ann")
    answers = [ann.post("/break").status_code for _ in range(5)]
    assert answers == [200, 200, 200, 429, 429]


def test_every_page_needs_somebody_signed_in_and_every_post_its_token(make_site: MakeSite) -> None:
    site = make_site()
    ann, outside = site.person("ann", "admin"), site.browser()
    open_to_all = {"/sign-in", "/join"}
    seen = 0
    for route in (route for module in MODULES for route in module.ROUTES):
        path = re.sub(r"{(\w+)}", lambda found: {"stage": "qa"}.get(found[1], "x"), route.path)
        if "GET" in route.methods and route.path not in open_to_all:
            assert outside.get(path, follow_redirects=False).headers.get("location") == "/sign-in", path
            seen += 1
        if "POST" in route.methods:
            forged = ann.client.post(path, data={"csrf": "0" * 40}, follow_redirects=False)
            assert forged.status_code == 403, path
            other = ann.client.post(path, data={"csrf": ann.csrf}, headers={"origin": "http://evil.test"})
            assert other.status_code == 403, path
            cross = ann.client.post(path, data={"csrf": ann.csrf}, headers={"sec-fetch-site": "cross-site"})
            assert cross.status_code == 403, path
            seen += 1
    assert seen > 20


def test_the_token_of_one_is_no_use_to_another(make_site: MakeSite) -> None:
    site = make_site()
    ann, ben = site.person("ann"), site.person("ben")
    assert ben.client.post("/break", data={"csrf": ann.csrf}).status_code == 403
    assert ben.client.post("/break", headers={"x-csrf-token": ben.csrf}).status_code == 200


@pytest.mark.parametrize(("role", "code"), [("annotator", 403), ("reviewer", 403), ("lead", 403), ("admin", 200)])
def test_only_admins_see_people(make_site: MakeSite, role: str, code: int) -> None:
    site = make_site()
    person = site.person("x", role)
    assert person.client.get("/people").status_code == code
    assert person.post("/people", script=False, do="invite", role="annotator").status_code == code
    assert ("/people" in person.client.get("/").text) is (code == 200)


def test_headers_are_strict_on_every_kind_of_answer(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(https=True)
    ann = site.person("ann")
    monkeypatch.setattr("poise.annotate.workbench.home.waiting", lambda *_: 1 / 0)
    from starlette.testclient import TestClient

    client = TestClient(
        site.app, raise_server_exceptions=False, cookies={"poise_session": ann.client.cookies["poise_session"]}
    )
    codes = {}
    for path in ("/", "/wellbeing", "/nope", "/static/task.js", "/static/../app.py", "/task/guess"):
        answer = client.get(path)
        codes[path] = answer.status_code
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-frame-options"] == "DENY" and answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == ("no-cache" if path.startswith("/static/t") else "no-store")
        assert "Traceback" not in answer.text and "division" not in answer.text
        assert "strict-transport-security" in answer.headers or path == "/"
    assert codes == {
        "/": 500,
        "/wellbeing": 200,
        "/nope": 404,
        "/static/task.js": 200,
        "/static/../app.py": 404,
        "/task/guess": 404,
    }
    assert "secure" in join(site, site.accounts.invite("lead"), "cem").headers["set-cookie"].casefold()


def test_pages_have_no_inline_script_or_style(make_site: MakeSite) -> None:
    site = make_site()
    ann = site.person("ann", "admin")
    pages = [ann.client.get(path).text for path in ("/", "/next/qa", "/before", "/break", "/wellbeing", "/people")]
    for page in pages:
        assert not re.search(r"<style|style=|\son\w+=|javascript:", page)
        assert all(re.search(r'src="/static/', tag) for tag in re.findall(r"<script[^>]*>", page))
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page)


def test_a_request_that_is_too_large_is_refused(make_site: MakeSite) -> None:
    site = make_site(body_bytes=2000)
    ann = site.person("ann")
    assert ann.client.post("/break", content=b"x" * 3000).status_code == 413
    assert ann.client.post("/break", headers={"content-length": "minus"}).status_code == 413

    def chunks() -> Any:
        for _ in range(50):
            yield b"x=" + b"y" * 100

    form = {"x-csrf-token": ann.csrf, "content-type": "application/x-www-form-urlencoded"}
    streamed = ann.client.post("/break", content=chunks(), headers=form)
    assert streamed.status_code == 413 and streamed.headers["x-frame-options"] == "DENY"


def test_nothing_secret_is_stored_and_nobody_is_named_in_what_leaves(make_site: MakeSite, tmp_path: Any) -> None:
    site = make_site()
    ann = site.person("ann-marie")
    task = ann.take()
    assert ann.submit(task, severity="0").status_code == 200
    key = site.sql("select value from meta where key = :key", key=PSEUDONYM_KEY)[0].value
    (rater,) = site.sql("select name, kind from rater where kind = 'person'")
    assert (rater.name, rater.kind) == (pseudonym(key, "ann-marie"), "person") and "ann" not in rater.name
    tables = export_tables(site.store, tmp_path / "out")
    assert tables.rows["judgements"] == 1
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"ann-marie" not in written and key.encode() not in written
    with site.store.database.read() as db:
        everything = str([db.execute(sa.text(f"select * from {t}")).all() for t in ("account", "session")])
    assert PASSWORD not in everything and ann.client.cookies["poise_session"] not in everything


def test_passwords_are_salted() -> None:
    one, two = hash_password("a long password"), hash_password("a long password")
    assert one != two and password_fits("a long password", one) and not password_fits("a long passwore", one)
    assert one.startswith("scrypt$15$8$1$")
