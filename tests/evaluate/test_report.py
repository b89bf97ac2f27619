"""The report page: self-contained, inert, complete, deterministic, and calm about missing numbers."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from poise.evaluate.report import _flatten, _interval, _number, _signed, render_report
from poise.evaluate.report_data import GuardRow, JudgeRow, ReportData
from poise.harm import CATEGORIES
from poise.metrics import Interval

NAN = float("nan")
ATTACK = "<script>alert(1)</script> \u202edesrever <img src=https://evil.example/x onerror=alert(2)> \x00\ud800 end"
SECTIONS = ["loop", "data", "raters", "guard", "preference", "align", "evaluation", "samples", "run"]
BARE = ReportData(title="Bare", created="2025-01-02", recipe_name="tiny", seed=0)


def plausible() -> dict[str, Any]:
    """Made-up numbers of the size a small run has, as a stage's JSON would hold them."""
    rng = np.random.default_rng(5)
    prob = rng.random(240)
    steps = list(range(0, 120, 3))
    ease = [1 - np.exp(-step / 40) for step in steps]

    def noisy(start: float, end: float, noise: float) -> list[float]:
        return [float(start + (end - start) * e + noise * rng.normal()) for e in ease]

    def interval(mean: float, half: float, n: int = 96) -> dict[str, Any]:
        return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}

    def judge(judge: str, metric: str, unit: str, up: bool, *values: dict[str, Any]) -> dict[str, Any]:
        parts = dict(zip(("before", "after", "difference"), values, strict=True))
        return {"judge": judge, "metric": metric, "unit": unit, "higher_is_better": up, **parts}

    def guard(name: str, split: str, *numbers: float | None) -> dict[str, Any]:
        keys = [field.name for field in dataclasses.fields(GuardRow)][3:]
        return {"name": name, "split": split, "n": 240, **dict(zip(keys, numbers, strict=True))}

    before, after = rng.normal((0.3, -0.9), 0.8, (96, 2)), rng.normal((0.45, 0.5), 0.7, (96, 2))
    return {
        "title": "Small aligned model",
        "created": "2025-01-02 10:30 UTC",
        "recipe_name": "constrained-small",
        "seed": 7,
        "versions": {"poise": "0.1.0", "torch": "2.13.0"},
        "settings": {
            "policy": {"name": "SmolLM2-135M-Instruct", "lr": 1e-05}, "align": {"threshold": -0.5}, "tags": [],
        },
        "stages": [
            {
                "name": "collect", "seconds": 412.6, "peak_memory_mb": 2310.0,
                "summary": {"prompts": 312, "by": {"hot": 2}},
            },
            {"name": "align", "seconds": None, "status": "stopped"},
        ],
        "loop_counts": [
            ["policy", "19 harms × 3 severities"], ["collect", "312 prompts"], ["respond", "1,248 responses, 4 each"],
            ["annotate", "1,248 labels by 3 raters"], ["data", "614 pairs released"], ["guard", "AUROC 0.912"],
            ["preference", "reward 0.71, cost 0.78"], ["align", "120 steps"], ["evaluate", "96 prompts, 2 judges"],
        ],
        "grid": {c.code: [int(x) for x in rng.poisson((9, 6, 7, 3))] for c in CATEGORIES},
        "raters": [
            {
                "question": "safe", "rater_a": "cost-model", "rater_b": "guard", "n": 240,
                "agreement": 0.87, "kappa": 0.71,
            },
            {"question": "severity", "rater_a": "a", "rater_b": "b", "n": 3, "agreement": 1.0, "kappa": NAN},
        ],
        "preference_flow": {"better ≠ safer": 171, "single follows better": 88, "single follows safer": 83},
        "guard": [
            guard("guard", "test", 0.912, 0.861, 0.84, 0.883, 0.121, 0.874, 0.744, 0.612, 0.55),
            guard("always moderate", "test", 0.5, 0.64, 0.471, 1.0, 1.0, 0.471, NAN, 0.114, 0.1),
            guard("category prior", "test", 0.702, 0.66, 0.61, 0.72, 0.41, None, 0.31, 0.29, 0.2),
        ],
        "calibration": {"prob": prob.tolist(), "positive": (rng.random(240) < prob**1.3).tolist()},
        "preference": {
            "reward": {"pair_accuracy": interval(0.71, 0.06), "n": 96, "losses": noisy(0.69, 0.45, 0.02)},
            "cost": {
                "pair_accuracy": interval(0.78, 0.05), "sign_accuracy": interval(0.84, 0.04, 192),
                "by_rung": {"order rule": interval(0.9, 0.05, 40), "severity": 0.66}, "losses": noisy(1.3, 0.6, 0.05),
                "scores_safe": rng.normal(-1.2, 0.9, 110).tolist(), "scores_unsafe": rng.normal(1.1, 1, 82).tolist(),
            },
        },
        "align": {
            "steps": steps, "reward": noisy(0.1, 0.42, 0.05), "cost": noisy(0.9, -0.6, 0.1), "threshold": -0.5,
            "multiplier": [float(1 + 2 * np.sin(step / 38) ** 2) for step in steps], "kl": noisy(0, 0.31, 0.01),
            "violation_rate": noisy(0.5, 0.1, 0.02), "seconds": {"rollout": 812.2, "score": 96.4, "update": 433.0},
        },
        "evaluation": {
            "judges": [
                judge("cost model", "violation rate", "share", False,
                      interval(0.47, 0.1), interval(0.115, 0.06), interval(-0.355, 0.1)),
                judge("reward model", "mean reward", "model units", True,
                      interval(0.31, 0.16), interval(0.44, 0.14), interval(0.13, 0.18)),
                judge("guard", "severity", "level 0 to 3", False,
                      interval(1.1, 0.2), interval(1.4, 0.2), interval(0.3, 0.11)),
            ],
            "quadrant": {"before": before.tolist(), "after": after.tolist()},
        },
        "samples": [
            {"prompt": "How do I bake bread?", "kind": "ordinary", "before": "Mix flour and water.", "harmful": False,
             "after": "Mix flour, water, salt and yeast.\nLet it rise for an hour, then bake at 220 °C.",
             "before_cost": -1.2, "after_cost": -1.4, "before_reward": 0.4, "after_reward": NAN},
            {"prompt": ATTACK, "kind": "harmful", "before": ATTACK, "after": "I can not help with that.",
             "before_cost": 2.13, "after_cost": -0.8, "before_reward": 0.1, "after_reward": None},
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(ReportData(**plausible()))


class Reader(HTMLParser):
    """Collects tags with attributes, ids, and headings in order; void elements need no end tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_self_contained_and_well_formed(page: str) -> None:
    reader = Reader(page)
    assert reader.open in ([], ["html"])
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "iframe", "img", "object", "embed", "form", "base"}
    for tag, attributes in reader.tags:
        assert not any(key.startswith("on") for key in attributes), tag
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(key) or "#").startswith("#"), (tag, attributes)
        assert "http" not in str(attributes.get("style")) and "url(h" not in str(attributes)
    css = re.findall(r"<style[^>]*>(.*?)</style>", page, re.DOTALL)
    assert not any("http" in text or "@import" in text for text in css)
    assert "default-src 'none'" in page
    page.encode("utf-8")


def test_ids_are_unique_and_links_lead_somewhere(page: str) -> None:
    tags = Reader(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {str(a.get(k))[1:] for _, a in tags for k in ("href", "xlink:href") if a.get(k)}
    used |= set(re.findall(r"url\(#([^)]+)\)", page))
    used |= {str(a["aria-labelledby"]) for _, a in tags if "aria-labelledby" in a}
    assert used <= set(ids)


def test_headings_come_in_order_and_every_picture_is_named(page: str) -> None:
    tags = [tag for tag, _ in Reader(page).tags]
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert page.count("<svg") == len(re.findall(r"<svg[^>]*role=\"img\"[^>]*><title id=", page)) == 12


def test_model_text_is_inert(page: str) -> None:
    assert "<script" not in page and "<img" not in page
    text = "&lt;script&gt;alert(1)&lt;/script&gt; \u202edesrever"
    assert f'<div class="text" dir="auto">{text}' in page
    assert "\x00" not in page and "\ufffd\ufffd end" in page
    assert "unicode-bidi: isolate" in page and "white-space: pre-wrap" in page


def test_text_from_outside_is_inert_everywhere() -> None:
    values = plausible()
    values.update(
        title=ATTACK, recipe_name=ATTACK, created=ATTACK, versions={ATTACK: ATTACK}, settings={ATTACK: ATTACK}
    )
    values.update(loop_counts=[(ATTACK, ATTACK)], grid={ATTACK: [1, 2, 3]}, preference_flow={ATTACK: 1})
    values["stages"] = [{"name": ATTACK, "status": ATTACK, "summary": {ATTACK: [ATTACK]}}]
    values["raters"] = [{"question": ATTACK, "rater_a": ATTACK, "rater_b": ATTACK, "n": 1, "agreement": 1, "kappa": 1}]
    values["guard"][0].update(name=ATTACK, split=ATTACK)
    values["evaluation"]["judges"][0].update(judge=ATTACK, metric=ATTACK, unit=ATTACK)
    values["preference"]["cost"]["by_rung"] = {ATTACK: 0.5}
    values["align"]["seconds"] = {ATTACK: 1.0}
    text = render_report(ReportData(**values))
    assert not {tag for tag, _ in Reader(text).tags} & {"script", "img"}
    assert "\x00" not in text
    text.encode("utf-8")


def test_harmful_samples_are_folded_and_ordinary_ones_are_not(page: str) -> None:
    ordinary, harmful = re.findall(r"<article>.*?</article>", page, re.DOTALL)
    assert "<details" not in ordinary
    assert re.search(r"<details><summary>Warning.*alert\(1\).*</details>", harmful, re.DOTALL)
    assert "alert" not in harmful[: harmful.index("<details>")]


@pytest.mark.parametrize("data", [BARE, ReportData(**plausible())], ids=["bare", "full"])
def test_every_section_is_there(data: ReportData) -> None:
    text = render_report(data)
    assert re.findall(r'<section id="(\w+)">', text) == SECTIONS
    for name in SECTIONS:
        body = text[text.index(f'<section id="{name}">') :].split("<section id=")[1]
        missing = "Not part of this run." in body
        assert missing == (data is BARE), name


def test_the_same_data_gives_the_same_bytes(page: str) -> None:
    assert render_report(ReportData(**plausible())) == page
    assert render_report(ReportData(**(plausible() | {"seed": 8}))) != page


def test_nan_and_none_read_not_available(page: str) -> None:
    assert not re.search(r"\bnan\b|\bNone\b", page)
    assert '<td class="n">n/a</td>' in page
    values = plausible()
    values["align"].update(cost=[NAN] * 40, kl=[None] * 40, reward=[None, *values["align"]["reward"][1:]])
    values["preference"]["cost"].update(scores_safe=[], scores_unsafe=[NAN], losses=[], sign_accuracy=None)
    values["evaluation"]["quadrant"] = {"before": [[NAN, 1.0]], "after": [[0.0, 1.0]]}
    none = Interval(NAN, NAN, NAN, 0)
    values["evaluation"]["judges"][0].update(before=none, after=none, difference=none)
    values["calibration"] = {"prob": [], "positive": []}
    text = render_report(ReportData(**values))
    assert text.count("n/a: no finite value to draw") == 6  # cost, kl, cost loss, histogram, quadrant, calibration
    assert not re.search(r"\bnan\b", text)


def test_null_in_an_interval_reads_not_available() -> None:
    """What a stage writes for an interval of no values."""
    none = {"mean": None, "low": None, "high": None, "n": 0}
    values = plausible()
    values["preference"]["cost"].update(pair_accuracy=none, by_rung={"severity": none})
    values["evaluation"]["judges"][0].update(before=none, after=none, difference=none)
    text = render_report(ReportData(**values))
    assert re.search(r"rung: severity</td><td class=\"n\">n/a</td>", text) and not re.search(r"\bnan\b|\bNone\b", text)


def test_a_mark_needs_an_interval_without_zero() -> None:
    def verdict(low: float, high: float, up: bool) -> str:
        one = Interval((low + high) / 2, low, high, 9)
        return JudgeRow("j", "m", "u", up, one, one, one).verdict

    assert verdict(0.1, 0.2, True) == "better" == verdict(-0.2, -0.1, False)
    assert verdict(0.1, 0.2, False) == "worse" == verdict(-0.2, -0.1, True)
    assert verdict(-0.1, 0.2, True) == verdict(0.0, 0.2, True) == verdict(NAN, NAN, False) == "unclear"


def test_the_page_shows_the_marks_and_the_numbers(page: str) -> None:
    assert "−0.355 [−0.455, −0.255]" in page and "0.470 → 0.115" in page
    assert page.count("▲ better") == 2 and page.count("▼ worse") == 2 and page.count("○ unclear") == 2
    assert "policy.lr</th><td>1e-05" in page
    assert "<b>S6</b> Violence" in page
    assert "expected calibration error 0." in page


def test_data_goes_through_json_and_a_misspelt_field_is_refused(page: str) -> None:
    values = plausible()
    data = ReportData(**json.loads(json.dumps(dataclasses.asdict(ReportData(**values)))))
    assert render_report(data) == page
    with pytest.raises(ValidationError, match="aurok"):
        ReportData(**(values | {"guard": [{"name": "g", "split": "test", "n": 1, "aurok": 0.5}]}))
    with pytest.raises(ValidationError, match="cost has 1 values for 2 steps"):
        ReportData(**(values | {"align": {"steps": [1, 2], "cost": [0.5]}}))
    quadrant = {"before": [[0, 1], [1, 1]], "after": [[0, 1], [1, 1]], "prompts": ["p"]}
    with pytest.raises(ValidationError, match="2 points for 1 prompts"):
        ReportData(**(values | {"evaluation": {"quadrant": quadrant}}))
    with pytest.raises(ValidationError, match=r"\[3, 4\] numbers"):
        ReportData(**(values | {"grid": {"S1": [1, 2, 3], "S2": [1, 2, 3, 4]}}))


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_contrast_in_light_and_dark(page: str) -> None:
    themes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    ]
    assert len(themes) == 2
    for theme in themes:
        pairs = [(ink, back) for ink in ("ink", "quiet", "accent", "good", "bad") for back in ("paper", "card")]
        for ink, back in [*pairs, ("ink", "warn")]:
            low, high = sorted((luminance(theme[ink]), luminance(theme[back])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, back)


def test_numbers_are_written_for_people() -> None:
    cases = {1234: "1,234", -3: "−3", 0.5: "0.500", -12.345: "−12.35", 0.00123: "0.0012", 1234.5: "1,234", 0.0: "0.000"}
    assert {value: _number(value) for value in cases} == cases
    assert [_number(x) for x in (None, NAN, float("inf"), float("-inf"))] == ["n/a", "n/a", "∞", "−∞"]
    assert (_signed(0.5), _signed(-0.5), _signed(0), _signed(None)) == ("+0.500", "−0.500", "0", "n/a")
    assert _interval(Interval(0.5, 0.4, 0.6, 3)) == "0.500 [0.400, 0.600]" and _interval(None) == "n/a"


def test_settings_are_flattened_as_on_the_command_line() -> None:
    nested = {"a": {"b": {"c": 1e-5, "d": None}, "e": []}, "f": True, "g": NAN, "h": {}}
    assert _flatten(nested) == [
        ("a.b.c", "1e-05"), ("a.b.d", "none"), ("a.e", "[]"), ("f", "True"), ("g", "n/a"), ("h", "{}"),
    ]  # fmt: skip
