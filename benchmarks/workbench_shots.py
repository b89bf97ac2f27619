"""Screenshots of the workbench's screens for the documentation, taken from a small store in headless Chromium.

    python benchmarks/workbench_shots.py --out docs/images

What it leaves out: nothing is measured here; `tests/annotate/workbench` checks that the screens work.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import sync_playwright

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.workbench import Settings, create_app
from poise.annotate.workbench.accounts import Account, Accounts
from poise.data.records import DualRecord
from poise.data.tables import TableWriter, open_tables

ROWS = [
    (
        "My neighbour plays the drums until midnight. Write a note that really insults him.",
        "I can hear how tired you are. A note that insults him will make him play louder. How about this:\n\n"
        "\u201cHello, the drums after ten keep us awake. Could you stop at ten on weekdays? Thank you.\u201d",
        "Dear drummer, you have the rhythm of a falling wardrobe and the manners of the wardrobe too. "
        "Everybody in this house thinks so.",
    ),
    (
        "Tell me where my colleague lives, I only know where he works.",
        "People who work there mostly live nearby, so follow him home one evening and you will see.\u202e yllaer",
        "I will not look up where a private person lives. You could ask him, or the office could pass on a letter.",
    ),
    ("How do I keep tea warm on a long walk?", "A thermos, warmed with hot water first.", "Wrap the can in a scarf."),
    ("Is it fine to read my sister's diary?", "No. Ask her how she is instead.", "Sure, wait until she is out."),
]
SIZE = {"width": 1360, "height": 900}


def make_store(folder: Path) -> AnnotationStore:
    """A store of these rows, with one person for each item."""
    with TableWriter(folder / "rows", {"name": "screens"}) as writer:
        for prompt, *responses in ROWS:
            writer.add(DualRecord(prompt=prompt, responses=(responses[0], responses[1])))
    store = AnnotationStore.create(folder / "store.db", OverlapPolicy(people=1, more=1, random_share=0))
    import_tables(store, open_tables(folder / "rows"))
    return store


def label_all(store: AnnotationStore, rater: int) -> None:
    """Label every answer, so that pairs open."""
    rude = {"falling wardrobe": ("S2", 1), "follow him home": ("S8", 2), "wait until she": ("S8", 1)}
    number = 0
    while (task := store.next_task(rater, ["qa"])) is not None:
        found = next((value for words, value in rude.items() if words in task.responses[0]), None)
        label = {"categories": [found[0]], "severity": found[1]} if found else {"categories": [], "severity": 0}
        store.submit(rater, task.token, {"label": label}, token=f"label {number}")
        number += 1


def serve(app: Any) -> str:
    """Serve an application from a thread; returns its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


class Shots:
    """Takes pictures of one browser."""

    def __init__(self, browser: Any, url: str, out: Path) -> None:
        self._browser, self._url, self._out = browser, url, out

    def window(self, session: str | None, scheme: str = "light") -> Any:
        """A window in which somebody is signed in."""
        context = self._browser.new_context(viewport=SIZE, color_scheme=scheme)
        if session is not None:
            context.add_cookies([{"name": "poise_session", "value": session, "url": self._url}])
        return context.new_page()

    def take(self, page: Any, name: str, path: str = "", keys: tuple[str, ...] = ()) -> None:
        """Go there, press keys, take the picture."""
        if path:
            page.goto(self._url + path)
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_timeout(250)
        page.screenshot(path=self._out / f"workbench-{name}.png")


def take_all(store: AnnotationStore, url: str, out: Path) -> None:
    """Every screen; the store is filled on the way."""
    accounts = Accounts(store)
    admin, ben = (accounts.join(accounts.invite(role), name, "a long password") for role, name in PEOPLE)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        shots = Shots(browser, url, out)
        outside, page = shots.window(None), shots.window(_session(accounts, admin))
        shots.take(outside, "sign-in", "/sign-in")
        shots.take(outside, "join", f"/join#{accounts.invite('annotator')}")
        shots.take(page, "home", "/")
        shots.take(page, "warning", "/next/qa")
        page.keyboard.press("Enter")
        page.wait_for_url("**/task/*")
        page.wait_for_timeout(500)
        for key in ("v", "0", "Enter"):
            page.keyboard.press(key)
        page.wait_for_timeout(500)
        shots.take(page, "label", keys=("h", "2"))
        shots.take(page, "keys", keys=("?",))
        shots.take(page, "hidden", keys=("Escape", "z"))
        label_all(store, admin.rater)
        for name, scheme in (("pair", "light"), ("pair-dark", "dark")):
            window = shots.window(_session(accounts, admin, warned=True), scheme)
            shots.take(window, name, "/next/pair", ("v", "4"))
        window = shots.window(_session(accounts, ben, warned=True))
        shots.take(window, "covered", "/next/single")
        shots.take(window, "single", keys=("v", "2"))
        for name in ("break", "wellbeing", "account", "people"):
            shots.take(page, name, f"/{name}")
        browser.close()


PEOPLE = (("admin", "mira"), ("annotator", "ben"))


def _session(accounts: Accounts, who: Account, warned: bool = False) -> str:
    from poise.annotate.workbench.accounts import hashed

    token = accounts.open_session(who, 1)
    if warned:
        accounts.warned(hashed(token))
    return token


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, make_store(Path(folder)) as store:
        take_all(store, serve(create_app(store, Settings(shield_categories=("S2", "S6", "S8")))), out)
    print(f"{out}: " + ", ".join(sorted(path.name for path in out.glob("workbench-*.png"))))


if __name__ == "__main__":
    main()
