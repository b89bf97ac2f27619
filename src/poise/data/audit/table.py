"""An audit as text, at most 100 columns wide; long lists are cut, the JSON has all of them."""

from __future__ import annotations

from collections.abc import Sequence

from poise.data.audit.shares import Json
from poise.data.audit.words import (
    LEVELS,
    MISSING,
    PROBES,
    SINGLE,
    STATES,
    broken,
    counted,
    decimal,
    number,
    percent,
    plain,
    together,
)

_Rows = list[Sequence[str]]

_MOST = 20
"""Entries of a list that are shown."""


def render_table(found: Json) -> str:
    """The audit for a terminal."""
    split = "all rows" if found["split"] is None else f"rows of split {plain(found['split'])!r}"
    blocks = [f"Audit of {split}. A share is followed by its parts."]
    blocks += [_rows(found), _sources(found), _answers(found), _categories(found), _together(found), _foreign(found)]
    blocks += [_pairs(found), _ladder(found), _single(found), _probes(found), _shortcut(found), _lengths(found)]
    return "\n\n".join(blocks)


def _block(title: str, rows: _Rows, widths: Sequence[int], head: Sequence[str] = ()) -> str:
    lines = [title]
    for row in [head, *rows] if head and rows else rows:
        cells = [f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(("  " + " ".join(cells)).rstrip())
    return "\n".join(lines if rows else [title, f"  {MISSING}"])


def _cut(rows: _Rows) -> _Rows:
    more = f"and {len(rows) - _MOST:,} more"
    return rows if len(rows) <= _MOST else [*rows[:_MOST], (more, *[""] * (len(rows[0]) - 1))]


def _rows(found: Json) -> str:
    rows: _Rows = []
    for unit, splits in found["rows"].items():
        parts = ", ".join(f"{plain(name, 20)} {n:,}" for name, n in splits.items())
        different = [number(found[key][unit]) if unit in found[key] else "-" for key in ("prompts", "responses")]
        rows.append((unit, f"{sum(splits.values()):,}", *different, plain(parts, 42)))
    head = ("", "rows", "prompts", "responses", "splits")
    return _block("Rows; different prompts and responses", rows, (16, 11, 11, 11, 42), head)


def _sources(found: Json) -> str:
    rows: _Rows = []
    for kind, units in (("prompts", found["prompt_sources"]), ("responses", found["subsets"])):
        for unit, names in units.items():
            rows += _cut([(plain(name, 50), kind, unit, f"{n:,}") for name, n in names.items()])
    return _block("Sources, by rows", rows, (50, 10, 18, 12))


def _answers(found: Json) -> str:
    units = found["answers"]
    rows: _Rows = [
        (word, *(number(told[word] and told[word]["count"]) for told in units.values())) for word in ("safe", "unsafe")
    ]
    rows += [
        (f"severity {word}", *(number(told["severity"] and told["severity"][level]) for told in units.values()))
        for level, word in LEVELS.items()
    ]
    contradict = "contradict safe <=> 0 <=> no category"
    rows.append((contradict, *(broken(told["contradictions"]) for told in units.values())))
    return _block("Answers", rows if units else [], (38, *[19] * len(units)), ("", *units))


def _categories(found: Json) -> str:
    rows: _Rows = []
    for entry in sorted(found["categories"] or [], key=lambda entry: -(entry["answers"] or 0)):
        levels = [number(entry["severity"][level]) if entry["severity"] else "-" for level in "123"]
        told = [percent(entry[key]) if entry[key] else "-" for key in ("majority", "alone")]
        most = f"{told[0]} {LEVELS[str(entry['majority']['severity'])]}" if entry["majority"] else "-"
        answers = "not told" if entry["answers"] is None else number(entry["answers"])
        share = percent(entry["share"]) if entry["share"] else "-"
        rows.append((entry["category"], answers, share, *levels, most, told[1]))
    head = ("", "answers", "share", "minor", "moderate", "severe", "most are", "alone")
    return _block(f"Harm categories ({found['population'] or '-'})", rows, (30, 9, 6, 8, 9, 8, 15, 6), head)


def _together(found: Json) -> str:
    rows: _Rows = [
        (" + ".join(row["names"]), *(decimal(row[key]) for key in _TOGETHER), f"{row['both']:,}")
        for row in together(found, 8)
    ]
    head = ("A + B, unsafe answers", "phi", "phi, all", "P(A|B)", "P(B|A)", "both")
    return _block("Categories that go together most", rows, (57, 5, 8, 7, 7, 8), head)


_TOGETHER = ("phi", "phi_all_answers", "first_given_second", "second_given_first")


def _foreign(found: Json) -> str:
    rows: _Rows = [
        (plain(entry["category"], 42), plain(entry["taxonomy"], 16), entry["unit"], counted(entry))
        for entry in found["foreign_categories"]
    ]
    return _block("Categories of other taxonomies", _cut(rows), (42, 16, 8, 29))


def _pairs(found: Json) -> str:
    pairs = found["pairs"]
    rows: _Rows = []
    if pairs:
        rows = [(words, counted(pairs["states"][key])) for key, words in STATES.items()]
        rows.append(("better is not safer", counted(pairs["better_is_not_safer"])))
        rows.append(("the unsafe one is called safer", broken(pairs["order_violations"])))
        rows.append(("the same two responses again", broken(pairs["repeated_pairs"])))
    return _block("Pairs" + (f" ({found['paired']}): {pairs['pairs']:,}" if pairs else ""), rows, (58, 38))


def _ladder(found: Json) -> str:
    rows: _Rows = []
    for rung in found["ladder"] or []:
        side = "" if rung["to_expected"] is None else percent(rung["to_expected"])
        rows.append((rung["rung"], counted(rung), side))
    head = ("", "pairs", "safer as expected")
    return _block("What separates the two responses", rows, (30, 44, 20), head)


def _single(found: Json) -> str:
    single = found["dual_and_single"]
    rows: _Rows = []
    if single:
        rows = [("better and safer differ", counted(single["conflict_share"]))]
        rows += [(words, counted(single[key])) for key, words in SINGLE.items()]
    return _block("The overall choice, on pairs that have it and better and safer", rows, (58, 38))


def _probes(found: Json) -> str:
    rows: _Rows = [(words, counted(found["probes"][key])) for key, words in PROBES.items()]
    return _block("Probes for shortcuts", rows, (58, 38))


def _shortcut(found: Json) -> str:
    told = found["shortcut"]
    rows: _Rows = []
    if told:
        rows = [
            (words, counted(told[key]["accuracy"]), f"{told[key]['macro_f1']:.3f}")
            for key, words in (("constant", "always the most common one"), ("category_set", "most common of the set"))
        ]
        shared = told["normalised_mutual_information"]
        rows.append(("shared information, of that in severity", MISSING if shared is None else f"{shared:.3f}", ""))
    head = ("", "accuracy", "macro-F1")
    return _block("Severity of unsafe answers, guessed from the category set", rows, (44, 40, 10), head)


def _lengths(found: Json) -> str:
    rows: _Rows = [
        (plain(row["source"], 30), row["unit"], row["state"], *(f"{row[key]:,}" for key in _LENGTHS))
        for row in sorted(found["lengths"], key=lambda row: -row["answers"])
    ]
    head = ("", "", "", "answers", "q25", "median", "q75")
    return _block("Characters of responses", _cut(rows), (30, 16, 10, 11, 8, 8, 8), head)


_LENGTHS = ("answers", "q25", "median", "q75")
