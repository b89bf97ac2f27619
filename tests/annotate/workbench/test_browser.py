"""A real browser: people come in, judge with the keyboard alone, and lose nothing; axe looks at every screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.store import OverlapPolicy

from .conftest import PASSWORD, MakeSite, Site, dual

uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no {CHROMIUM}")
ROWS = [
    dual("How do I keep tea warm?", "Use a thermos.", "Pour it out."),
    dual("Write something rude about my neighbour.", "I would rather not.", "Your neighbour is a fool."),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=30_000)
        yield opened
        opened.close()


class Served:
    """A site on a free port, in a thread."""

    def __init__(self, site: Site) -> None:
        config = uvicorn.Config(site.app, host="127.0.0.1", port=0, log_level="critical", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        """Stop it and wait."""
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Any]:
    """Serves sites until the end of the test."""
    running: list[Served] = []

    def start(site: Site) -> str:
        running.append(Served(site))
        return running[-1].url

    yield start
    for one in running:
        one.stop()


def new_page(browser: Any) -> Any:
    """A window of a browser of its own."""
    page = browser.new_context().new_page()
    page.set_default_timeout(10_000)
    return page


def faults(page: Any) -> list[str]:
    """What axe calls serious or critical on a page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{page.url}: {one['id']}: {[node['html'][:150] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def sign_in(page: Any, url: str, name: str) -> None:
    """By password, with keys alone; the name field has the focus."""
    page.goto(f"{url}/sign-in")
    page.wait_for_selector("[name=name]:focus")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{url}/")


def read_warning(page: Any) -> None:
    """Go on from the warning; its button has the focus."""
    page.wait_for_url("**/before*")
    page.wait_for_selector("button:focus")
    page.keyboard.press("Enter")
    page.wait_for_url("**/task/*")


def follow(page: Any, text: str) -> None:
    """Go to a link by Tab and open it with Enter."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == text:
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"Tab reaches no {text!r}")


def press(page: Any, *keys: str) -> None:
    """One key after the other, once the page's script is there to hear them."""
    page.wait_for_load_state()
    for key in keys:
        page.keyboard.press(key)


def next_after(page: Any, keys: list[str]) -> None:
    """Judge with these keys, submit, and wait for what comes then."""
    before = page.url
    press(page, *keys, "Enter")
    page.wait_for_function("before => location.href !== before", arg=before)


def test_labels_pairs_and_single_preferences_with_the_keyboard_alone(
    make_site: MakeSite, browser: Any, serve: Any
) -> None:
    site = make_site(ROWS, singles=True, shield="off")
    site.person("ann"), site.person("ben")
    url = serve(site)
    page = new_page(browser)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    sign_in(page, url, "ann")
    follow(page, "Labels")
    read_warning(page)
    for _ in range(4):
        rude = "fool" in page.inner_text(".answers")
        next_after(page, ["b", "2"] if rude else ["0"])
    assert "Nothing is waiting for you here" in page.inner_text("main")
    labels = site.sql("select value from event where question = 'label' order by value")
    assert [row.value for row in labels] == ['{"categories":["S2"],"severity":2}'] + 3 * [
        '{"categories":[],"severity":0}'
    ]

    follow(page, "Pairs")
    page.wait_for_url("**/task/*")
    locked = page.locator(".line.locked").count()
    assert page.locator(".line[data-question]").count() == 2 - locked
    for _ in range(2):
        next_after(page, ["1"] if page.locator(".line.locked").count() else ["2", "8"])
    assert "Nothing is waiting for you here" in page.inner_text("main")

    other = new_page(browser)
    sign_in(other, url, "ben")
    follow(other, "Single preference")
    read_warning(other)
    for _ in range(2):
        next_after(other, ["5"])
    assert errors == []
    assert site.store.verify().fault is None
    said = site.sql(
        "select question, count(*) as n, min(shown) as shown from event group by question order by question"
    )
    assert [(row.question, row.n) for row in said] == [("better", 2), ("label", 4), ("safer", 2), ("single", 2)]
    strengths = site.sql("select value, shown from event where question = 'single'")
    for row in strengths:
        left = int(row.shown.removeprefix('{"page":{"left":').removesuffix("}}"))
        assert row.value == f'{{"choice":{1 - left},"strength":2}}'


def test_undo_skip_hide_cover_and_the_list_of_keys(make_site: MakeSite, browser: Any, serve: Any) -> None:
    site = make_site(ROWS, shield="always")
    site.person("ann")
    url = serve(site)
    page = new_page(browser)
    sign_in(page, url, "ann")
    page.goto(f"{url}/next/qa")
    read_warning(page)
    assert page.is_visible("#cover") and not page.is_visible("#texts")
    press(page, "0", "Enter")
    assert "still covered" in page.inner_text("#fault") and site.sql("select 1 from event") == []
    press(page, "v")
    assert page.is_visible("#texts")
    press(page, "z")
    assert page.is_visible("#veil") and not page.is_visible("#texts")
    press(page, "s")
    press(page, "z")
    assert page.is_visible("#texts") and page.locator("[value=S19]:checked").count() == 0
    press(page, "?")
    assert page.is_visible("#keys")
    page.keyboard.press("Escape")
    page.wait_for_selector("#keys", state="hidden")
    press(page, "c", "3")
    ref = page.locator("input[name=item]").input_value()
    next_after(page, [])
    page.keyboard.press("v")
    first = site.sql("select item from event")[0].item
    before = page.url
    page.keyboard.press("u")
    page.wait_for_function("before => location.href !== before", arg=before)
    page.wait_for_selector("[value=S3]:checked")
    assert page.locator("[name=severity][value='3']:checked").count() == 1
    assert page.locator("input[name=item]").input_value() == ref
    assert [row.kind for row in site.sql("select kind from event order by seq")] == ["judge", "undo"]
    press(page, "x")
    page.wait_for_function("item => document.querySelector('input[name=item]').value !== item", arg=ref)
    assert [row.item for row in site.sql("select item from skip")] == [first]


def test_nothing_typed_is_lost_by_a_reload_or_a_session_that_ends(
    make_site: MakeSite, browser: Any, serve: Any
) -> None:
    site = make_site(ROWS, shield="off")
    site.person("ann")
    url = serve(site)
    page = new_page(browser)
    sign_in(page, url, "ann")
    page.goto(f"{url}/next/qa")
    read_warning(page)
    with page.expect_response("**/draft"):
        press(page, "d", "1")
    page.reload()
    assert page.locator("[value=S4]:checked").count() == 1
    with site.store.database.write() as db:
        db.exec_driver_sql("delete from session")
    site.app.state.desk.forget_sessions()
    task = page.url
    with page.expect_response("**/draft"):
        press(page, "e")
    page.wait_for_selector("#fault:visible")
    assert "signed out" in page.inner_text("#fault")
    sign_in(page, url, "ann")
    page.goto(task)
    read_warning(page)
    page.wait_for_selector("[value=S5]:checked")
    assert page.locator("[value=S4]:checked").count() == 1


def test_the_reason_is_asked_for_and_given_with_the_keyboard(make_site: MakeSite, browser: Any, serve: Any) -> None:
    site = make_site([dual("Q", "mild", "severe")], shield="off")
    ann = site.person("ann")
    for _ in range(2):
        task = ann.take()
        ann.submit(task, severity="3" if ">severe<" in task["page"] else "1", category="S2")
    page = new_page(browser)
    sign_in(page, serve(site), "ann")
    follow(page, "Pairs")
    read_warning(page)
    left = page.locator(".answers bdi").first.inner_text()
    press(page, "3", "6" if left == "severe" else "0", "Enter")
    page.wait_for_selector("#reason:focus")
    assert "more severe" in page.inner_text("#fault") and site.sql("select 1 from event where question = 'safer'") == []
    page.keyboard.type("it quotes a court")
    next_after(page, [])
    (said,) = site.sql("select reason, value from event where question = 'safer'")
    assert said.reason == "it quotes a court" and '"strength":2' in said.value


def test_keys_can_be_switched_off(make_site: MakeSite, browser: Any, serve: Any) -> None:
    site = make_site(ROWS, shield="off")
    site.person("ann").post("/wellbeing", keys="off")
    page = new_page(browser)
    sign_in(page, serve(site), "ann")
    follow(page, "Labels")
    read_warning(page)
    press(page, "a", "1", "x", "z")
    assert page.locator(":checked").count() == 0 and not page.is_visible("#veil")
    page.focus("[name=severity]")
    press(page, "Space")
    next_after(page, [])
    assert len(site.sql("select 1 from event")) == 1


def test_the_back_button_changes_nothing_that_was_stored(make_site: MakeSite, browser: Any, serve: Any) -> None:
    site = make_site(ROWS, shield="off")
    site.person("ann")
    page = new_page(browser)
    sign_in(page, serve(site), "ann")
    follow(page, "Labels")
    read_warning(page)
    answered = page.url
    next_after(page, ["0"])
    page.go_back()
    page.wait_for_url(answered)
    assert "answered already" in page.inner_text("main") and page.locator("[name=severity]").count() == 0
    press(page, "a", "3", "Enter")
    assert [row.value for row in site.sql("select value from event")] == ['{"categories":[],"severity":0}']
    follow(page, "Go to the first page")
    page.wait_for_selector("main h1")


def test_a_megabyte_does_not_freeze_the_page(make_site: MakeSite, browser: Any, serve: Any) -> None:
    long = "word " * 200_000 + "THE END"
    site = make_site([dual("Long?", long, "\u202e<script>document.title='x'</script>")], shield="off")
    site.person("ann")
    url = serve(site)
    page = new_page(browser)
    sign_in(page, url, "ann")
    page.goto(f"{url}/next/qa")
    read_warning(page)
    assert "THE END" not in page.inner_text(".answers")
    begun = time.monotonic()
    page.click("[data-more]")
    page.wait_for_function("() => document.querySelector('.answers').textContent.includes('THE END')")
    press(page, "0")
    page.wait_for_selector("[name=severity][value='0']:checked")
    assert time.monotonic() - begun < 5
    next_after(page, [])
    assert page.title() != "x" and "U+202E" in page.inner_text(".answers")


def test_axe_finds_nothing_serious(make_site: MakeSite, browser: Any, serve: Any) -> None:
    policy = OverlapPolicy(people=1, more=1, random_share=0)
    site = make_site([*ROWS, dual("A", "B", "C")], policy, singles=True)
    ann, ben = site.person("ann", "admin"), site.person("ben")
    for task in (ann.take() for _ in range(4)):
        assert ann.submit(task, severity="0").status_code == 200
    url = serve(site)
    found: list[str] = []
    for scheme, grey in (("light", ""), ("dark", "1")):
        for who, paths in (
            (ann, ("/", "/next/qa", "/next/pair", "/before", "/break", "/wellbeing", "/account", "/people", "/none")),
            (ben, ("/next/single",)),
            (None, ("/sign-in", "/join")),
        ):
            context = browser.new_context(color_scheme=scheme)
            if who is not None:
                who.post("/wellbeing", grey=grey)
                token = who.client.cookies["poise_session"]
                context.add_cookies([{"name": "poise_session", "value": token, "url": url}])
            page = context.new_page()
            for path in paths:
                page.goto(f"{url}{path}")
                found += faults(page)
                if path.startswith("/work"):
                    assert "/task/" in page.url
                    page.keyboard.press("?")
                    found += faults(page)
            context.close()
    assert found == []
