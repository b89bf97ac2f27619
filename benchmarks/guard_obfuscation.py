"""How much a guard's scores suffer when texts are disguised, with and without undoing the disguises first.

    python benchmarks/guard_obfuscation.py --guard starter --data DIR

DIR holds the sets, one folder each: `toxicchat_test` (prompts), `beavertails_test` (answers) and `multijail` (the same
harmful prompts in several languages). AUROC of harmful against harmless, recall at the guard's threshold, and
the mean drop of P(unsafe) on the harmful. "Before" reads texts as they come; "after" undoes disguises. What it leaves
out: a guard that was trained without disguises.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import poise.guard.fit.model as network
from poise import metrics
from poise.data import uniform_seed
from poise.data.adapters.registry import format_of
from poise.data.reading import Reader
from poise.data.records import PromptRecord, QARecord
from poise.data.tables import open_tables
from poise.errors import in_one_line
from poise.guard.fast.opening import open_guard
from poise.guard.normalise import normalise
from poise.guard.obfuscation import OBFUSCATIONS

LANGUAGES = ("en", "zh", "it", "ar", "vi")
Text = tuple[str, str | None]


def read(name: str, data: Path, work: Path, rows: int) -> tuple[list[Text], np.ndarray, list[Any]]:
    """Texts of a set, whether each is harmful, and the records; at most `rows`, by hash of the prompt."""
    Reader(format_of(name), dataset=name).read([data / name], work / name, replace=True)
    tables = open_tables(work / name)
    unit = "qa" if "qa" in tables else "prompt"
    records = [r for r in tables[unit].records() if isinstance(r, QARecord | PromptRecord) and r.label.safe is not None]
    records.sort(key=lambda r: uniform_seed(0, "benchmark", r.prompt))
    chosen = records[:rows]
    texts = [(r.prompt, r.response if isinstance(r, QARecord) else None) for r in chosen]
    return texts, np.array([not r.label.safe for r in chosen]), list(chosen)


def disguise(texts: Sequence[Text], name: str) -> list[Text]:
    """All texts in one disguise."""
    change, found = OBFUSCATIONS[name], []
    for prompt, response in texts:
        chance = Random(uniform_seed(0, name, prompt))
        found.append((change(prompt, chance), None if response is None else change(response, chance)))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guard", type=Path, default=Path("starter"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=400, help="of each set")
    told = parser.parse_args()
    guard = open_guard(told.guard)

    def scores(texts: Sequence[Text], undo: bool) -> np.ndarray:
        network.normalise = normalise if undo else lambda text, known: text
        return np.asarray(guard.probabilities(list(texts)).unsafe)

    with tempfile.TemporaryDirectory() as work:
        for name in ("toxicchat_test", "beavertails_test"):
            texts, harmful, _ = read(name, told.data, Path(work), told.rows)
            plain = scores(texts, undo=True)
            print(f"\n{name}: {len(texts)} texts, {harmful.sum()} harmful")
            print("| disguise | AUROC before | after | recall before | after | P drop before | after |")
            print("|---|---|---|---|---|---|---|")
            for disguised in ("none", *OBFUSCATIONS):
                shown = texts if disguised == "none" else disguise(texts, disguised)
                cells = []
                for undo in (False, True):
                    found = scores(shown, undo)
                    recall = float((found[harmful] >= guard.threshold).mean())
                    cells.append((metrics.auroc(found, harmful), recall, float((plain - found)[harmful].mean())))
                before, after = cells
                numbers = " | ".join(f"{b:.3f} | {a:.3f}" for b, a in zip(before, after, strict=True))
                print(f"| {disguised} | {numbers} |")
        texts, _, records = read("multijail", told.data, Path(work), 10**9)
        print("\nmultijail, harmful prompts:\n| language | n | recall | mean P |\n|---|---|---|---|")
        for language in LANGUAGES:
            own = [text for text, record in zip(texts, records, strict=True) if record.language == language]
            found = scores(own, undo=True)
            print(f"| {language} | {len(own)} | {(found >= guard.threshold).mean():.3f} | {found.mean():.3f} |")


if __name__ == "__main__":
    with in_one_line():
        main()
