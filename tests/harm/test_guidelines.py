"""The written policy: every page loads, and its version follows its words."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import pytest

from poise.harm import CATEGORIES, Category, Severity, guidelines, policy_version

module = importlib.import_module("poise.harm.guidelines")  # `poise.harm.guidelines` is the function of that name
FOLDER = Path(module.__file__ or "").with_name("guidelines")


def test_all_pages_load_in_card_order() -> None:
    pages = guidelines()
    assert list(pages) == list(CATEGORIES)
    assert {path.stem for path in FOLDER.glob("*.toml")} == {f"s{i:02d}" for i in range(1, 20)}


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda c: c.code)
def test_a_page_says_all_that_is_needed(category: Category) -> None:
    page = guidelines()[category]
    assert page.category is category
    assert [int(part) for part in page.version.split(".")]
    assert page.definition and page.includes and page.excludes
    assert list(page.levels) == [Severity.MINOR, Severity.MODERATE, Severity.SEVERE]
    assert all(page.levels.values())
    assert category not in page.often_with
    assert len(set(page.often_with)) == len(page.often_with)


def test_text_holds_the_whole_page() -> None:
    page = guidelines()[Category.S6]
    text = page.text()
    assert text.startswith(f"# S6 Violence (version {page.version})\n\n{page.definition}\n\nIn:\n")
    assert text.index("\nIn:\n") < text.index(f"* {page.includes[-1]}\n") < text.index("\nOut:\n")
    assert text.index("\nOut:\n") < text.index(f"* {page.excludes[0]}\n")
    assert text.endswith(f"* **severe**: {page.levels[Severity.SEVERE]}\n")


def test_policy_version_is_the_hash_of_the_files() -> None:
    words = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.toml")))
    assert policy_version() == hashlib.sha256(words).hexdigest()[:12]


def test_policy_version_changes_with_any_word(monkeypatch: pytest.MonkeyPatch) -> None:
    read = module._page
    monkeypatch.setattr(module, "_page", lambda c: read(c).replace(b"Idioms", b"Sayings"))
    assert policy_version.__wrapped__() != policy_version()


def test_a_page_under_a_wrong_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    read = module._page
    monkeypatch.setattr(module, "_page", lambda c: read(Category.S7 if c is Category.S6 else c))
    with pytest.raises(ValueError, match="guideline page of S6 says S7 Drugs"):
        guidelines.__wrapped__()
