"""The words of others, as data: category sets (`taxonomies/*.toml`) and severity scales (`crosswalks/severity.toml`).

Names stand exactly as the public data spells them. A code such as "S5" means another harm in each version of a model,
so a name or code is only ever read inside a named taxonomy. What a category is in our terms is in
`poise.harm.crosswalk`; a severity level is simple enough to be mapped here. Definitions are left out: they belong to
their owners, and `source` says where they are.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from importlib.resources import files

from poise.errors import PoiseError
from poise.harm.severity import Severity

PKU = "pku-19"
"""Name of the taxonomy that all others are mapped to and from."""


@dataclass(frozen=True)
class TaxonomyCategory:
    """One category of a taxonomy.

    Args:
        key: its name exactly as the public data spells it.
        title: the same for people to read.
        code: short code inside this taxonomy, "" when there is none.
        group: name of the wider category it belongs to, "" when there is none.
        also: further spellings that occur.
        derivable: False for harm to minors, which no other label may be turned into: it needs evidence of its own.
    """

    key: str
    title: str
    code: str = ""
    group: str = ""
    also: tuple[str, ...] = ()
    derivable: bool = True


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """An ordered set of harm categories.

    Args:
        name: what files and commands call it.
        title: one line for people to read.
        version: edition of the taxonomy, or the models that speak it.
        owner, source, licence: who made it, where it is, on what terms.
        exhaustive: True when a row that names categories names all that apply, so that the others are known to be
            absent; False for one category a row, and for models that name the first that comes to mind.
        categories: in the owner's order.
        aliases: other names of the taxonomy.
    """

    name: str
    title: str
    version: str
    owner: str
    source: str
    licence: str
    exhaustive: bool
    categories: tuple[TaxonomyCategory, ...]
    aliases: tuple[str, ...] = ()

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of all categories, in order."""
        return tuple(category.key for category in self.categories)

    def parse(self, value: object) -> str:
        """The key of the category that `value` names by key, code, title or other spelling, in any case.

        Raises:
            PoiseError: no category of this taxonomy is called that; the message names the nearest one.
        """
        if isinstance(value, str):
            if value in self._spellings:  # the common case, without folding
                return self._spellings[value]
            if (text := value.strip().casefold()) in self._spellings:
                return self._spellings[text]
        raise PoiseError(f"{value!r} is no category", where=self.name, do=nearest(value, self.keys))

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Every accepted spelling, exact and folded, -> key."""
        found: dict[str, str] = {}
        for category in self.categories:
            for text in (category.key, category.title, category.code, *category.also):
                for spelling in {text, text.casefold()} - {""}:
                    if found.setdefault(spelling, category.key) != category.key:
                        raise ValueError(f"{self.name}: {spelling!r} names two categories")
        return found


def load_taxonomy(name: str) -> Taxonomy:
    """The taxonomy of that name or alias.

    Raises:
        PoiseError: there is none; the message names the nearest one.
    """
    known = _taxonomies()
    if name in known:
        return known[name]
    raise PoiseError(f"{name!r} is no taxonomy", where="taxonomy", do=nearest(name, known))


def taxonomy_names() -> tuple[str, ...]:
    """The names of all taxonomies, without aliases, sorted."""
    return tuple(sorted({taxonomy.name for taxonomy in _taxonomies().values()}))


def nearest(value: object, names: Iterable[str]) -> str:
    """What to suggest to someone who wrote `value` where one of `names` was wanted."""
    names = list(names)
    folded = {name.casefold(): name for name in names}
    near = get_close_matches(str(value).strip().casefold(), folded, n=1, cutoff=0.4)
    return f"did you mean {folded[near[0]]!r}?" if near else "known: " + "; ".join(names)


@cache
def _taxonomies() -> dict[str, Taxonomy]:
    """All taxonomies by name and by alias."""
    known: dict[str, Taxonomy] = {}
    folder = files("poise.harm").joinpath("taxonomies")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
        categories = tuple(
            TaxonomyCategory(**{**entry, "also": tuple(entry.get("also", ()))}) for entry in raw.pop("category")
        )
        taxonomy = Taxonomy(**{**raw, "aliases": tuple(raw.get("aliases", ()))}, categories=categories)
        if file.name != f"{taxonomy.name}.toml":
            raise ValueError(f"taxonomy file {file.name} holds {taxonomy.name}")
        for name in (taxonomy.name, *taxonomy.aliases):
            if known.setdefault(name, taxonomy) is not taxonomy:
                raise ValueError(f"two taxonomies are called {name}")
    return known


def severity_levels(scheme: str, value: object) -> tuple[Severity, ...]:
    """All our levels that a level of another scale may stand for, mildest first.

    Args:
        scheme: name of the scale, e.g. "azure-four".
        value: a level as that scale writes it: an integer, or a word or digits in any case.

    Raises:
        PoiseError: the scale is unknown or is no scale of severity, or has no such level.
    """
    levels = _scheme(scheme)
    spelt = {str(native).casefold(): native for natives in levels.values() for native in natives}
    if (
        isinstance(value, int | str)
        and not isinstance(value, bool)
        and (text := str(value).strip().casefold()) in spelt
    ):
        return tuple(level for level, natives in levels.items() if spelt[text] in natives)
    known = " ".join(str(native) for native in spelt.values())
    raise PoiseError(f"{value!r} is no severity level", where=scheme, do=f"known: {known}")


def map_severity(scheme: str, value: object) -> Severity:
    """Our level for a level of another scale; the mildest where it may stand for several (see `severity_levels`).

    Raises:
        PoiseError: as `severity_levels`.
    """
    return severity_levels(scheme, value)[0]


def native_severity(scheme: str, severity: Severity) -> int | str:
    """The level of another scale that is written for one of ours: the mildest of those that stand for it.

    Raises:
        PoiseError: the scale is unknown or is no scale of severity.
    """
    return _scheme(scheme)[severity][0]


def severity_schemes() -> tuple[str, ...]:
    """The names of all severity scales that can be mapped."""
    return tuple(_schemes()[0])


def _scheme(name: str) -> dict[Severity, tuple[int | str, ...]]:
    schemes, refused = _schemes()
    if (family := name.casefold().split("-")[0]) in refused:
        raise PoiseError(
            f"{name!r} has no severity scale: {refused[family]}",
            where="severity",
            do="leave severity unknown; a probability or a confidence never becomes one",
        )
    if name not in schemes:
        raise PoiseError(f"{name!r} is no severity scale", where="severity", do=nearest(name, schemes))
    return schemes[name]


@cache
def _schemes() -> tuple[dict[str, dict[Severity, tuple[int | str, ...]]], dict[str, str]]:
    """Scale name -> our level -> its levels, mildest first; and what is no scale of severity -> why."""
    path = files("poise.harm").joinpath("crosswalks", "severity.toml")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    schemes = {entry["name"]: {level: tuple(entry[level.label]) for level in Severity} for entry in raw["scheme"]}
    return schemes, raw["no_scheme"]
