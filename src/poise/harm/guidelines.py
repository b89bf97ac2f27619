"""The written policy: one guideline page for each category, versioned, read from `guidelines/*.toml`."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from poise.harm.category import CATEGORIES, Category
from poise.harm.severity import Severity


@dataclass(frozen=True)
class Guideline:
    """What annotators, prompt writers and judges read about one category.

    Args:
        category: the category described.
        version: semantic version of the text; every judgement records it.
        definition: one or two sentences.
        includes, excludes: what is in and what is out.
        levels: what minor, moderate and severe mean for this category.
        often_with: categories that often come together with this one.
    """

    category: Category
    version: str
    definition: str
    includes: tuple[str, ...]
    excludes: tuple[str, ...]
    levels: dict[Severity, str]
    often_with: tuple[Category, ...]

    def text(self) -> str:
        """The whole page as Markdown."""
        lines = [
            f"# {self.category.code} {self.category.value} (version {self.version})",
            "",
            self.definition,
            "",
            "In:",
        ]
        lines += [f"* {item}" for item in self.includes] + ["", "Out:"]
        lines += [f"* {item}" for item in self.excludes] + [""]
        lines += [f"* **{level.label}**: {text}" for level, text in self.levels.items()]
        return "\n".join(lines) + "\n"


@cache
def guidelines() -> dict[Category, Guideline]:
    """All 19 pages in card order."""
    pages = {}
    for category in CATEGORIES:
        raw = tomllib.loads(_page(category).decode("utf-8"))
        if raw["code"] != category.code or raw["name"] != category.value:
            raise ValueError(f"guideline page of {category.code} says {raw['code']} {raw['name']}")
        pages[category] = Guideline(
            category=category,
            version=raw["version"],
            definition=raw["definition"],
            includes=tuple(raw["includes"]),
            excludes=tuple(raw["excludes"]),
            levels={Severity.parse(name): raw[name] for name in ("minor", "moderate", "severe")},
            often_with=tuple(Category.parse(code) for code in raw["often_with"]),
        )
    return pages


@cache
def policy_version() -> str:
    """Twelve hex digits over all pages: changes when any word of the policy changes."""
    digest = hashlib.sha256()
    for category in CATEGORIES:
        digest.update(_page(category))
    return digest.hexdigest()[:12]


def _page(category: Category) -> bytes:
    return files("poise.harm").joinpath("guidelines", f"s{category.index + 1:02d}.toml").read_bytes()
