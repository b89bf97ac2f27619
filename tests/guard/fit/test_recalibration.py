"""Calibration anew: isotonic maps against scikit-learn, the order of thresholds, the choice, curves, the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.cli.main import main
from poise.data.records import JudgementRecord, PartialLabel, PromptRecord, QARecord
from poise.data.tables import TableWriter, open_tables
from poise.guard.calibration import Calibration, Isotonic, probabilities, sigmoid
from poise.guard.fast.opening import open_guard
from poise.guard.fit.apply import TrainedGuard, label_tables
from poise.guard.fit.calibration import calibrate, isotonic, log_loss, pool_adjacent
from poise.guard.fit.curves import curve
from poise.guard.fit.loss import GuardTargets
from poise.guard.fit.model import GuardModel
from poise.guard.fit.recalibration import FOLDS, _carried, fit_maps
from poise.guard.fit.rows import labelled_rows
from poise.guard.verdict import judged, unjudged
from poise.guard.windows import Logits
from poise.harm import CATEGORIES, Severity

N = 3000


def test_pool_adjacent_by_hand() -> None:
    """(1, 3, 2, 0, 5): 3, 2 and 0 pool to 5/3, which is above 1; with weight 6 on the 0, 5/8 pulls the 1 in: 6/9."""
    means, sizes = pool_adjacent(np.array([1.0, 3, 2, 0, 5]), np.ones(5))
    assert means.tolist() == pytest.approx([1, 5 / 3, 5]) and sizes.tolist() == [1, 3, 1]
    means, sizes = pool_adjacent(np.array([1.0, 3, 2, 0, 5]), np.array([1.0, 1, 1, 6, 1]))
    assert means.tolist() == pytest.approx([6 / 9, 5]) and sizes.tolist() == [4, 1]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 5)), min_size=1, max_size=40))
def test_pool_adjacent_against_scikit_learn(points: list[tuple[float, float]]) -> None:
    sklearn = pytest.importorskip("sklearn.isotonic", reason="scikit-learn is not installed")
    y, weight = np.array(points).T
    means, sizes = pool_adjacent(y, weight)
    assert np.allclose(np.repeat(means, sizes), sklearn.isotonic_regression(y, sample_weight=weight), atol=1e-9)
    assert (np.diff(means) > 0).all() and sizes.sum() == len(y)


def test_an_isotonic_map_by_hand() -> None:
    """Logits 0, 1, 1, 2 with 0, 0, 1, 1: blocks at 0, 1/2 and 1, held in 1/6..5/6: log-odds -log 5, 0, log 5."""
    found = isotonic(np.array([2.0, 1, 0, 1, 9]), np.array([1.0, 0, 0, 1, math.nan]))
    assert found.x == (0.0, 1.0, 2.0) and found.y == pytest.approx((-math.log(5), 0.0, math.log(5)))


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_isotonic_maps_keep_the_order_of_severity(seed: int) -> None:
    """Three maps fitted apart may cross; what is applied never does, and texts keep their order within a head."""
    chance = np.random.default_rng(seed)
    at_least = np.sort(chance.normal(0, 2, (80, 3)), axis=1)[:, ::-1].astype(np.float32)
    maps = [isotonic(at_least[:, j], (chance.random(80) < chance.random()).astype(float)) for j in range(3)]
    how = Calibration(((1.0, 0.0),) * 19, (maps[0], maps[1], maps[2]), (1.0, 0.0))
    logits = Logits(np.zeros((80, 19), np.float32), at_least, np.zeros(80, np.float32))
    applied = how.apply(logits)
    assert (np.diff(applied.at_least, axis=1) <= 0).all()
    assert (probabilities(applied).severity >= 0).all()
    assert (np.diff(applied.at_least[np.argsort(at_least[:, 0]), 0]) >= 0).all()
    assert Calibration.from_json(json.loads(json.dumps(how.to_json()))) == how


def test_a_map_that_is_none_is_refused() -> None:
    told = Calibration.none().to_json()
    for wrong in ({"x": [1, 0], "y": [0, 1]}, {"x": [0, 1], "y": [1, 0]}, {"x": [], "y": []}, {"x": [0], "y": [0, 1]}):
        with pytest.raises(ValueError, match="increasing"):
            Calibration.from_json(told | {"refusal": wrong})


def logits_and_targets(warp: Any) -> tuple[Logits, GuardTargets]:
    """A true log-odds t for refusal and severity >= 1; the guard's logit is `warp(t)`; S1 is known, noise."""
    chance = np.random.default_rng(3)
    true = chance.normal(0, 2, N)
    unsafe = (chance.random(N) < sigmoid(true)).astype(np.float32)
    more = unsafe * (chance.random(N) < 0.5)
    most = more * (chance.random(N) < 0.5)
    told = warp(true).astype(np.float32)
    categories = np.full((N, 19), np.nan, np.float32)
    categories[:, 0] = chance.random(N) < 0.3
    targets = GuardTargets(
        *map(torch.from_numpy, (categories, np.stack([unsafe, more, most], 1).astype(np.float32), unsafe)),
        torch.ones(N),
    )
    at_least = np.stack([told, told - 1, told - 2], axis=1)
    return Logits(chance.normal(0, 1, (N, 19)).astype(np.float32), at_least, told), targets


def test_the_better_map_is_chosen_on_rows_kept_apart() -> None:
    """A straight map undoes a scale; only a bent one undoes a step. Of noise, neither finds anything."""
    folds = np.arange(N) % FOLDS
    straight, targets = logits_and_targets(lambda t: 3 * t + 1)
    found = fit_maps(straight, targets, folds, "auto")
    assert found.methods["refusal"] == "platt" and isinstance(found.calibration.refusal[0], float)
    assert found.calibration.refusal == pytest.approx((1 / 3, -1 / 3), abs=0.05)
    bent, targets = logits_and_targets(lambda t: np.where(t > 0, 0.05 * t + 4, 3 * t - 4))
    found = fit_maps(bent, targets, folds, "auto")
    assert found.methods["refusal"] == found.methods["severity"] == "isotonic"
    assert isinstance(found.calibration.refusal, Isotonic) and isinstance(found.calibration.severity[0], Isotonic)
    y = targets.refusal.numpy()
    both = {kind: fit_maps(bent, targets, folds, kind) for kind in ("platt", "isotonic")}  # type: ignore[arg-type]
    assert log_loss(both["isotonic"].held.refusal, y) < log_loss(both["platt"].held.refusal, y) - 0.01
    assert (np.diff(found.held.at_least, axis=1) <= 0).all()
    base = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    assert log_loss(found.held.categories[:, 0], targets.categories[:, 0].numpy()) == pytest.approx(base, abs=0.03)
    assert found.calibration.categories[1] == (1.0, 0.0)  # nothing known


def test_held_rows_are_held_apart() -> None:
    """Labels of one fold do not change what is said of that fold."""
    logits, targets = logits_and_targets(lambda t: t)
    folds = np.arange(N) % FOLDS
    other = GuardTargets(*(part.clone() for part in targets))
    other.refusal[torch.from_numpy(folds == 0)] = 1 - other.refusal[torch.from_numpy(folds == 0)]
    one, two = (fit_maps(logits, told, folds, "isotonic").held.refusal for told in (targets, other))
    assert np.array_equal(one[folds == 0], two[folds == 0]) and not np.array_equal(one[folds == 1], two[folds == 1])


def test_isotonic_needs_rows_of_all_three_levels() -> None:
    logits, targets = logits_and_targets(lambda t: t)
    targets.at_least[:, 1:] = math.nan
    found = calibrate(logits, targets, {"severity": "isotonic"})
    assert isinstance(found.severity[0], float)


def test_a_curve_by_hand() -> None:
    bins = curve([0.2] * 10 + [0.9] * 10, [True] * 2 + [False] * 8 + [True] * 9 + [False])
    assert [(entry["p"], entry["share"], entry["n"]) for entry in bins] == [
        (pytest.approx(0.2), 0.2, 10),
        (pytest.approx(0.9), 0.9, 10),
    ]
    assert bins[0]["low"] < 0.2 < bins[0]["high"]


def test_what_is_blocked(guard_folder: Path) -> None:
    guard = TrainedGuard(guard_folder)
    assert guard.block_at is None
    mild = judged(True, severities=(Severity.MINOR,), severity_probabilities=(0.1, 0.6, 0.2, 0.1), probability=0.9)
    safe = judged(False, severity_probabilities=(0.9, 0.1, 0.0, 0.0), probability=0.1)
    assert guard.blocks(mild) and guard.blocks(unjudged("x")) and not guard.blocks(safe)
    told = json.loads((guard_folder / "guard.json").read_text())
    for level, limit, says in (("moderate", 0.4, False), ("moderate", 0.2, True), ("severe", 0.2, False)):
        told |= {"block_at": level, "thresholds": told["thresholds"] | {"block": limit}}
        (guard_folder / "guard.json").write_text(json.dumps(told))
        assert TrainedGuard(guard_folder).blocks(mild) is says
        assert TrainedGuard(guard_folder).blocks(unjudged("x")) and not TrainedGuard(guard_folder).blocks(safe)


@pytest.fixture
def guard_folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """One whose severity goes from harmless words to harmful ones."""
    model = GuardModel(tiny_encoder, max_length=32)
    model.run_in(torch.float32)
    seen: list[torch.Tensor] = []
    hook = model.heads.severity.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for words in ("bread and milk " * 3, "knife and fire " * 3):
        model.logits([(f"question {i}", words) for i in range(8)])
    hook.remove()
    with torch.no_grad():
        apart = seen[1].mean(0) - seen[0].mean(0)
        model.heads.severity.weight.copy_(3 * apart / apart.norm() ** 2)
    folder = tmp_path / "guard"
    folder.mkdir()
    limits = {"unsafe": 0.5, "categories": [0.5] * 19}
    told = {
        "engine": "torch-fp32",
        "encoder": "x",
        "calibration": Calibration.none().to_json(),
        "thresholds": limits,
        "plan": {"name": "tiny"},
    }
    model.save(folder, told)
    return folder


def tables(folder: Path, *, graded: bool = True, split: str | None = None, count: int = 240, gravest: int = 3) -> Path:
    s6 = CATEGORIES[5].value
    with TableWriter(folder, {"name": "t"}) as writer:
        for i in range(count):
            level = min(i % 4, gravest)
            label = PartialLabel(safe=True, categories=(), severity=0)
            if level:
                label = PartialLabel(safe=False, categories=(s6,), severity=level if graded else None)
            words = "cat " * (i % 7) + ("knife and fire " if level else "bread and milk ") * 3
            writer.add(QARecord(prompt=f"question {i}", response=words, label=label, dataset="mine", split=split))
    return folder


def test_the_command(guard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, out = tables(tmp_path / "t"), tmp_path / "out"
    words = ["guard", "calibrate", str(guard_folder), str(mine), "--out", str(out)]
    assert main([*words, "--false-positive-rate", "0.1", "--block-at", "severe"]) == 0
    said = capsys.readouterr().out
    assert "unsafe" in said and "not fitted, fewer than 20 rows of a kind: S1, S2" in said and f"guard: {out}" in said
    told = json.loads((out / "guard.json").read_text())
    assert told["block_at"] == "severe" and told["thresholds"]["false_positive_rate"] == 0.1
    curves = json.loads((out / "curves.json").read_text())
    heads = {entry["head"]: entry for entry in curves["heads"]}
    assert set(heads) == {"unsafe", "moderate", "severe", "S6"} and set(curves["kept"]) >= {"S1", "refusal"}
    assert heads["unsafe"]["n"] == 240 and heads["unsafe"]["positive"] == 180
    assert heads["unsafe"]["after"]["log_loss"] < heads["unsafe"]["before"]["log_loss"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    guard, before = open_guard(out), open_guard(guard_folder)
    assert guard.version != before.version and guard.block_at == Severity.SEVERE
    assert main(["guard", "label", str(out), str(mine), "--out", str(tmp_path / "l")]) == 0
    labels = [r for r in open_tables(tmp_path / "l")["judgements"].records() if isinstance(r, JudgementRecord)]
    blocked = [r.provenance["blocked"] for r in labels if r.rater == "tiny" and r.provenance]
    assert len(blocked) == 240 and 0 < sum(blocked) < 240
    safe = [(f"question {i}", "cat " * (i % 7) + "bread and milk " * 3) for i in range(0, 240, 4)]
    assert (guard.probabilities(safe).unsafe > guard.threshold + 1e-4).mean() <= 0.1  # sums in another order
    assert main(words) == 2 and "already exists" in capsys.readouterr().err


BENT = Isotonic((-4.0, -0.5, 0.5, 4.0), (-3.0, -2.0, 2.0, 2.5))


@pytest.mark.parametrize("severity", [(1.7, (0.6, 0.1, -0.4)), (BENT, BENT, BENT)])
@pytest.mark.parametrize("changes", [{"graded": False}, {"gravest": 2}])
def test_what_too_few_rows_tell_stays_as_it_was(
    guard_folder: Path, tmp_path: Path, severity: Any, changes: dict[str, Any]
) -> None:
    """S8 and refusal have no rows, nor has severe: their maps and thresholds stay, and so does the level of a text."""
    maps = [(1.0, 0.0)] * 19
    maps[7] = (1.5, 0.3)
    limits = {"unsafe": 0.5, "categories": [0.06 if k == 7 else 0.5 for k in range(19)], "levels": [0.6, 0.35]}
    told = json.loads((guard_folder / "guard.json").read_text())
    told |= {"calibration": Calibration(tuple(maps), severity, (2.0, 0.1)).to_json(), "thresholds": limits}
    (guard_folder / "guard.json").write_text(json.dumps(told))
    texts = [(f"question {i}", "cat " * i + words) for i in range(6) for words in ("knife", "fire milk", "bread milk")]
    was = open_guard(guard_folder).probabilities(texts).at_least
    limits["levels"] = [float(np.sort(was[:, column])[7:9].mean()) for column in (1, 2)]
    (guard_folder / "guard.json").write_text(json.dumps(told))
    mine, out = tables(tmp_path / "t", count=120, **changes), tmp_path / "out"
    assert main(["guard", "calibrate", str(guard_folder), str(mine), "--out", str(out)]) == 0
    before, after = open_guard(guard_folder), open_guard(out)
    assert after.calibration.categories[7] == (1.5, 0.3) and after.category_thresholds[7] == 0.06
    assert after.calibration.refusal == (2.0, 0.1)
    now = after.probabilities(texts).at_least
    for column in (1, 2) if changes == {"graded": False} else (2,):
        assert np.abs(was[:, column] - now[:, column]).max() > 0.01
        reached = was[:, column] >= before.level_cuts[column - 1]
        assert 0 < reached.sum() < len(texts)
        assert np.array_equal(reached, now[:, column] >= after.level_cuts[column - 1])


def test_a_cut_is_carried_to_the_same_logit() -> None:
    """Logit 1 is 2 by (1, 1) and 3 by (2, 1); by a bent map 0..2 -> -1..1 it is 0; beyond a map nothing is."""
    two, three = sigmoid([2.0, 3.0]).tolist()
    assert _carried(two, (1.0, 1.0), (2.0, 1.0)) == pytest.approx(three)
    bent = Isotonic((0.0, 2.0), (-1.0, 1.0))
    assert _carried(0.5, bent, (2.0, 1.0)) == pytest.approx(three)
    assert _carried(two, (1.0, 1.0), bent) == pytest.approx(0.5)
    assert (_carried(0.9, bent, bent), _carried(0.1, bent, bent), _carried(1.0, bent, bent)) == (1.0, 0.0, 1.0)


def test_rows_with_an_image_are_unjudged_and_teach_nothing(guard_folder: Path, tmp_path: Path) -> None:
    safe = PartialLabel(safe=True)
    with TableWriter(tmp_path / "t", {"name": "t"}) as writer:
        for response, image in (("seen", "x.png"), ("read", None), ("seen too", "y.png")):
            writer.add(QARecord(prompt="What is this?", response=response, label=safe, dataset="mine", image=image))
        writer.add(PromptRecord(prompt="Who is this?", label=safe, dataset="mine", image="z.png"))
    mine = open_tables(tmp_path / "t")
    assert [row.response for row in labelled_rows(mine)] == ["read"]
    assert label_tables(TrainedGuard(guard_folder), mine, tmp_path / "l").keys() >= {"unjudged"}
    labels = [r for r in open_tables(tmp_path / "l")["judgements"].records() if isinstance(r, JudgementRecord)]
    assert [r.value is None for r in labels] == [True, False, True]
    assert labels[0].provenance is not None and labels[0].provenance["reason"] == "image"


@pytest.mark.parametrize("verb", ["evaluate", "calibrate"])
def test_tables_of_judgements_alone(
    guard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    with TableWriter(tmp_path / "t", {"name": "t"}) as writer:
        writer.add(JudgementRecord(item="x", question="safe", value=True, rater="r", responses=("x",)))
    words = ["guard", verb, str(guard_folder), str(tmp_path / "t"), "--out", str(tmp_path / "o")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert ("no row with a label" if verb == "evaluate" else "0 unsafe and 0 safe rows") in said


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"split": "test"}, [], "0 unsafe and 0 safe"),
        ({"count": 30}, [], "20 of each are needed"),
        ({"graded": False}, ["--block-at", "severe"], "too few rows are graded"),
    ],
)
def test_tables_that_will_not_do(
    guard_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: list[str],
    says: str,
) -> None:
    mine = tables(tmp_path / "t", **changes)
    assert main(["guard", "calibrate", str(guard_folder), str(mine), "--out", str(tmp_path / "o"), *options]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_an_exported_guard_is_calibrated_as_it_is_served(guard_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    mine, fast, out = tables(tmp_path / "t"), tmp_path / "fast", tmp_path / "out"
    assert main(["guard", "export", str(guard_folder), str(fast)]) == 0
    words = ["guard", "calibrate", str(fast), str(mine), "--out", str(out), "--method", "isotonic"]
    assert main(words) == 0
    guard = open_guard(out)  # which checks its noted texts
    assert guard.threshold != open_guard(fast).threshold
    assert json.loads((out / "curves.json").read_text())["heads"][0]["method"] == "isotonic"
    assert main(["guard", "evaluate", str(out), str(mine)]) == 0
    assert main(["guard", "label", str(out), str(mine), "--out", str(tmp_path / "l")]) == 0
