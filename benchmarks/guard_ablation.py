"""What each group of sources, each term of the loss and each augmentation brings to a guard: one left out at a time,
and what the plan does not have, harmless requests that quote harm, put in.

    python benchmarks/guard_ablation.py recipes/guard-starter.yaml --data DIR --out DIR/ablation

Every variant is the plan at a smaller size (`--rows` of each set, `--epochs`), with one thing left out, trained and
measured by `poise guard train`'s own code on the whole plan's split. All take as many steps: where a source is left
out, rows of the others come again in its place, and where rows are put in, as many others drop out. Mean AUROC of
"unsafe" on the sets that no variant trains on, and on the test rows of the training sets (with at least 50 rows);
severity on graded rows; and the mean AUROC on answers in every disguise of `guard_obfuscation.py`. A variant that is
there is not trained again, so a stopped run goes on. How far the whole plan's own numbers stand apart with other seeds
is the noise to read by: `--seeds 2` trains all twice, `--whole 3` the whole plan three times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from guard_obfuscation import disguise, read

from poise import metrics
from poise.cli.guard import read_guard_plan
from poise.data import uniform_seed
from poise.data.folders import write_json
from poise.data.tables import Tables
from poise.errors import in_one_line
from poise.guard.calibration import probabilities
from poise.guard.fit.model import GuardModel
from poise.guard.fit.plan import SetUse
from poise.guard.fit.rows import Row, prepare
from poise.guard.fit.run import Plan, Watch, learn, measure, plan_rows
from poise.guard.obfuscation import OBFUSCATIONS
from poise.models.bundled import resolve

SOURCES = {
    "our seeds": ("seeds",),
    "attacks on models": ("gptfuzz_labelled", "jbb_artifacts", "jailjudge_mini", "harmbench_response"),
    "dialogue": ("diasafety", "hh_harmless_base", "red_instruct_questions"),
    "prompts alone": (
        "aegis_test_prompts", "openai_moderation", "hatecheck", "xstest_prompts", "ailuminate_demo_en", "advbench",
        "simplesafetytests", "mitre_frr", "harmbench_behaviors",
    ),
    "graded and refusing answers": (
        "air_bench_sample", "openai_rbr_gold", "pyrit_severity", "pyrit_refusal", "xstest_completions",
    ),
    "ordinary answers": ("tulu_human_eval", "pandalm_human"),
    "PKU family": ("beavertails_test", "saferlhf_qa4k", "saferlhf_qa2k", "pku_saferlhf_pairs"),
}  # fmt: skip
LOSS: dict[str, dict[str, Any]] = {
    "asymmetric loss (focus 0)": {"focus": 0.0},
    "loss of pairs": {"pair_weight": 0.0},
    "category loss": {"category_weight": 0.0},
    "label smoothing": {"smoothing": 0.0},
    "disguised texts": {"disguised": 0.0},
    "mean of the last weights": {"averaged": 0.0},
}
DATA: dict[str, dict[str, Any]] = {
    "severity odds": {"severity_prior": False},
    "written refusals": {"refusals": 0.0},
    "written answers": {"answered": None},
    "small sets count for more": {"set_power": 1.0},
}
ADDED: dict[str, dict[str, Any]] = {"(with quoted harm)": {"quoted": 0.3}}


def variants(whole: Plan, each_source: bool) -> Iterator[tuple[str, Plan]]:
    """(what is left out, plan), the whole plan first; a group none of whose sets trains is passed over."""
    yield "nothing", whole
    trained = [name for name, use in whole.data.sets.items() if use.use == "train"]
    groups = {name: (name,) for name in trained} if each_source else SOURCES
    for name, sets in groups.items():
        if set(sets) & set(trained):
            kept = {key: use for key, use in whole.data.sets.items() if key not in sets or use.use == "test"}
            yield name, whole._replace(data=whole.data.model_copy(update={"sets": kept, **unanswered(whole, sets)}))
    for part, changes in (("training", LOSS), ("data", {**DATA, **ADDED})):
        own = getattr(whole, part)
        for name, change in changes.items():
            if any(getattr(own, key) != value for key, value in change.items()):  # else the plan is so already
                yield name, whole._replace(**{part: own.model_copy(update=change)})


def unanswered(plan: Plan, sets: Sequence[str]) -> dict[str, Any]:
    """The change of a plan whose left out sets must not be answered either."""
    answers = plan.data.answered
    if answers is None:
        return {}
    kept = tuple(name for name in answers.sets if name not in sets)
    return {"answered": answers.model_copy(update={"sets": kept}) if kept else None}


def smaller(plan: Plan, rows: int, epochs: int, seed: int) -> Plan:
    """The plan at the size of this benchmark."""

    def cut(use: SetUse) -> SetUse:
        return use.model_copy(update={"rows": min(use.rows, rows)})

    data = plan.data.model_copy(update={"sets": {name: cut(use) for name, use in plan.data.sets.items()}})
    return plan._replace(data=data, training=plan.training.model_copy(update={"epochs": epochs}), seed=seed)


def row_of(measured: dict[str, Any], disguised: float) -> dict[str, float]:
    """The numbers of one variant: AUROC by "set/kind" where at least 50 rows have it, and the others by name."""
    scored = [e for e in measured["sets"] if e.get("auroc") is not None and e["n"] >= 50]
    severity = (measured["severity"] or {}).get("guard", {})
    others = {"kappa": severity.get("kappa"), "macro-F1": severity.get("macro_f1"), "disguised": disguised}
    return {f"{e['set']}/{e['kind']}": e["auroc"] for e in scored} | {
        name: value for name, value in others.items() if value is not None
    }


def trained(
    plan: Plan, tables: Tables, texts: Sequence[Any], harmful: np.ndarray, test_rows: int, size: int, checkpoint: Path
) -> tuple[dict[str, float], int]:
    """Train one variant on `size` rows (0: those it has) and measure it; also the rows it was trained on.

    The split is that of the whole plan's tables.
    """
    rows = plan_rows(plan, tables, checkpoint.with_name("replies.sqlite"))
    train, held = ([row for row in rows if row.part == part] for part in ("train", "calibration"))
    size = size or len(train)
    if len(train) > size:  # of what a variant puts in, its share must be there
        train = sorted(train, key=lambda row: uniform_seed(plan.seed, "as many", row.prompt, row.response or ""))
    train = [train[at % len(train)] for at in range(size)]
    test: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: uniform_seed(0, "ablation", row.prompt)):
        if row.part == "test" and len(own := test.setdefault(row.source, [])) < test_rows:
            own.append(row)
    tested = [row for own in test.values() for row in own]
    how = plan.model
    model = GuardModel(
        resolve(how.encoder), max_length=how.max_length, lora_rank=how.lora_rank, dropout=how.dropout, seed=plan.seed
    )

    def step(done: int, total: int, loss: float) -> None:
        if done % 25 == 0 or done == total:
            print(f"  {done}/{total} loss {loss:.3f}", flush=True)

    fitted = learn(model, train, held, plan.training, plan.seed, checkpoint=checkpoint, watch=Watch(step=step))
    logits = fitted.calibration.apply(model.logits([(row.prompt, row.response) for row in tested]))
    measured = measure(logits, tested, train, fitted.limits[0], fitted.cuts)
    scores = [
        probabilities(fitted.calibration.apply(model.logits(disguise(texts, name)))).unsafe for name in OBFUSCATIONS
    ]
    checkpoint.unlink(missing_ok=True)
    return row_of(measured, float(np.mean([metrics.auroc(score, harmful) for score in scores]))), size


def table(rows: dict[str, list[dict[str, float]]], held_out: set[str], show: Callable[[str], object] = print) -> None:
    """The whole plan's numbers, and each variant's difference from them on the same sets; means over seeds."""
    sets = [name for name in rows["nothing"][0] if "/" in name]
    columns = {
        "held out": [name for name in sets if name.split("/")[0] in held_out],
        "own": [name for name in sets if name.split("/")[0] not in held_out],
        **{name: [name] for name in ("kappa", "macro-F1", "disguised")},
    }
    show("| left out | " + " | ".join(columns) + " |")
    show("|---|" + "---|" * len(columns))
    for name, own in rows.items():
        cells = []
        for keys in columns.values():
            pairs = [
                (a[k], b[k]) for a, b in zip(own, rows["nothing"], strict=False) for k in keys if k in a and k in b
            ]
            mean = float(np.mean([mine if name == "nothing" else mine - whole for mine, whole in pairs]))
            cells.append(f"{mean:.3f}" if name == "nothing" else f"{mean:+.3f}")
        show(f"| {name} | " + " | ".join(cells) + " |")
    if len(rows["nothing"]) > 1:
        apart = {
            title: float(np.ptp([np.mean([row[k] for k in keys if k in row]) for row in rows["nothing"]]))
            for title, keys in columns.items()
        }
        show("seeds of the whole plan stand apart by " + ", ".join(f"{k} {v:.3f}" for k, v in apart.items()))


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300, help="training rows of each set")
    parser.add_argument("--test-rows", type=int, default=400, help="rows of each set that are measured")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--whole", type=int, default=1, help="seeds of the whole plan, if more")
    parser.add_argument("--each-source", action="store_true", help="sets one by one instead of in groups")
    told = parser.parse_args()
    how = {"rows": told.rows, "test_rows": told.test_rows, "epochs": told.epochs}
    file = told.out / "rows.json"
    state = json.loads(file.read_text()) if file.exists() else {"how": how, "size": 0, "rows": {}}
    if state.get("how") != how:
        parser.error(f"{told.out} holds variants of another size; choose another --out")
    whole = read_guard_plan(told.plan, None)
    told.out.mkdir(parents=True, exist_ok=True)
    tables = prepare(whole.data, told.data, told.out, whole.seed, print)
    with tempfile.TemporaryDirectory() as work:
        texts, harmful, _ = read("beavertails_test", told.data, Path(work), 200)
    rows: dict[str, list[dict[str, float]]] = state["rows"]
    for seed in range(max(told.seeds, told.whole)):
        for name, plan in variants(whole, told.each_source):
            if len(rows.get(name, [])) <= seed and (seed < told.seeds or name == "nothing"):
                print(f"without {name}, seed {seed}", flush=True)
                small = smaller(plan, told.rows, told.epochs, seed)
                checkpoint = told.out / "checkpoint.safetensors"
                found, state["size"] = trained(small, tables, texts, harmful, told.test_rows, state["size"], checkpoint)
                rows.setdefault(name, []).append(found)
                write_json(file, state)
    held_out = {name for name, use in whole.data.sets.items() if use.use == "test"}
    table(rows, held_out)


if __name__ == "__main__":
    with in_one_line():
        main()
