"""Maps that keep the mean, thresholds of rows that say yes or no, and verdicts that agree with them to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from poise.guard.calibrated import CalibratedGuard
from poise.guard.calibration import Calibration, probabilities, sigmoid
from poise.guard.fit.calibration import calibrate, thresholds
from poise.guard.fit.loss import GuardTargets
from poise.guard.fit.recalibration import _curves, _thresholds, fit_maps
from poise.guard.windows import Logits, Text, Window

NAN = math.nan


class Told(CalibratedGuard):
    """A guard of which only calibration and thresholds matter."""

    def windows(self, text: Text) -> list[Window]:
        raise AssertionError("no text is read here")

    def raw_logits(self, texts: Sequence[Text], on_rows: Callable[[int], object] = print) -> Logits:
        raise AssertionError("no text is read here")


def told(folder: Path, levels: Sequence[float], block: float) -> Told:
    """One that calls everything unsafe, and blocks from moderate on."""
    (folder / "weights").write_bytes(b"")
    limits = {"unsafe": 0.0, "categories": [0.5] * 19, "levels": list(levels), "block": block}
    settings = {"calibration": Calibration.none().to_json(), "thresholds": limits, "plan": {"name": "told"}}
    return Told(folder, settings | {"block_at": "moderate"}, folder / "weights")


def targets(at_least: np.ndarray, categories: np.ndarray | None = None) -> GuardTargets:
    n = len(at_least)
    kinds = np.full((n, 19), NAN) if categories is None else categories
    parts = (kinds, at_least, np.full(n, NAN), np.ones(n))
    return GuardTargets(*(torch.tensor(part, dtype=torch.float32) for part in parts))


@pytest.mark.parametrize("base", [-6.0, -4.0, 4.0])
def test_the_mean_probability_is_the_share_of_a_rare_category(base: float) -> None:
    """At the best shift the sum of p - t is 0, t being Platt's targets: whatever the shift, no mass is added."""
    chance = np.random.default_rng(0)
    true = chance.normal(base, 1.5, 5000)
    categories = np.full((5000, 19), NAN)
    categories[:, 4] = chance.random(5000) < sigmoid(true)
    ones = float(categories[:, 4].sum())
    at = np.zeros((5000, 19), np.float32)
    at[:, 4] = true - base * 2 / 3  # a head that says it too often, or too seldom
    found = Logits(at, np.zeros((5000, 3), np.float32), np.zeros(5000, np.float32))
    mapped = calibrate(found, targets(np.full((5000, 3), NAN), categories)).apply(found)
    wanted = (ones * (ones + 1) / (ones + 2) + (5000 - ones) / (5002 - ones)) / 5000
    assert float(sigmoid(mapped.categories[:, 4]).mean()) == pytest.approx(wanted, rel=0.02)


def test_rows_of_which_raters_are_split_are_no_harmless_ones() -> None:
    """Safe rows lie below 0.3, unsafe ones above 0.7, and half of all raters call those at 0.9 safe."""
    chance = np.random.default_rng(0)
    score = np.concatenate([chance.uniform(0, 0.3, 100), np.full(100, 0.9), chance.uniform(0.7, 1, 100)])
    target = np.repeat([0.0, 0.5, 1.0], 100)
    assert thresholds([score], [target], 0.05)[0] < 0.3
    assert thresholds([score[:120]], [target[:120]], 0.05) == [0.5]  # 20 that are split are no 20 of a kind
    at_least = np.stack([target, np.full(300, NAN), np.full(300, NAN)], axis=1)
    raw = Logits(
        np.zeros((300, 19), np.float32),
        np.repeat(np.log(score / (1 - score))[:, None], 3, axis=1).astype(np.float32),
        np.zeros(300, np.float32),
    )
    known = targets(at_least)
    fitted = fit_maps(raw, known, np.arange(300) % 5, "platt")
    (head,) = _curves(raw, fitted, known, {"at_least": [0.5, None, None], "categories": [0.5] * 19})["heads"]
    assert (head["head"], head["n"], head["positive"]) == ("unsafe", 200, 100)


@pytest.mark.parametrize("seed", range(20))
def test_a_verdict_is_rounded_as_its_thresholds_are(seed: int, tmp_path: Path) -> None:
    """80 rows that a map makes alike: no threshold lets any of those below moderate pass, so it lets none pass; half of
    the 40 that are unsafe are severe, and a cut that halves them stands where they all are, so all are severe."""
    p = np.sort(np.random.default_rng(seed).random(3))[::-1]
    at = np.tile(np.log(p / (1 - p)).astype(np.float32), (80, 1))
    raw = Logits(np.zeros((80, 19), np.float32), at, np.zeros(80, np.float32))
    severity = np.repeat([0, 1, 3], [40, 20, 20])
    known = targets((severity[:, None] >= [1, 2, 3]).astype(float))
    limits = _thresholds(told(tmp_path, (0.5, 0.5), 0.5), Calibration.none(), raw, known, 0.05)
    guard = told(tmp_path, limits["cuts"], limits["at_least"][1])
    verdict = guard.verdict(probabilities(raw), 0)
    assert verdict.unsafe and verdict.severity == 3 and not guard.blocks(verdict)
    assert limits["mute"] == ["unsafe", "moderate", "severe"]


def test_a_head_that_tells_is_not_mute(tmp_path: Path) -> None:
    at = np.tile(np.repeat([3.0, -3.0], 40).astype(np.float32)[:, None], (1, 3))
    known = targets(np.repeat([[1.0] * 3, [0.0] * 3], 40, axis=0))
    raw = Logits(np.zeros((80, 19), np.float32), at, np.zeros(80, np.float32))
    assert not _thresholds(told(tmp_path, (0.5, 0.5), 0.5), Calibration.none(), raw, known, 0.05)["mute"]
