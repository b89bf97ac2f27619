"""Each family's parser on outputs as its documentation shows them, and on everything that is not quite that."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.guard.others import FAMILIES, Answer
from poise.guard.verdict import Verdict, codes
from poise.harm import Category, Severity
from poise.llm.exchange import Reply


def read(name: str, text: str, *, pair: bool = True, at: int = 0, **more: Any) -> Verdict:
    family = FAMILIES[name]
    question = family.questions(("How?", "So." if pair else None))[at]
    logprobs = more.pop("logprobs", None)
    return family.read(Answer(Reply(text, "stop", logprobs=logprobs), question, pair, **more))


def openai(flagged: object, *true: str, leave: tuple[str, ...] = (), **scores: float) -> str:
    keys = "harassment harassment/threatening hate hate/threatening illicit illicit/violent self-harm self-harm/intent"
    names = [*keys.split(), "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic"]
    flags = {name: name in true for name in names if name not in leave}
    told = {name: scores.get(name, 0.9 if flag else 0.01) for name, flag in flags.items()}
    return json.dumps({"id": "modr-1", "results": [{"flagged": flagged, "categories": flags, "category_scores": told}]})


def azure(**levels: object) -> str:
    found = {"Hate": 0, "SelfHarm": 0, "Sexual": 0, "Violence": 0} | levels
    entries = [{"category": name, "severity": level} for name, level in found.items()]
    return json.dumps({"blocklistsMatch": [], "categoriesAnalysis": entries})


def md(result: str, category: str | None = None, reasoning: str = "[REASONING]: It helps.") -> str:
    return f"{reasoning}\n[RESULT]: {result}" + ("" if category is None else f"\n[UNSAFE CATEGORY]: {category}")


SAFE_OUTPUTS = {
    "llama-guard-1": ["safe", " safe\n"],
    "llama-guard-2": ["safe", "\n\nsafe"],
    "llama-guard-3": ["\n\nsafe", "SAFE", "Safe "],
    "llama-guard-3-1b": ["\n\nsafe"],
    "llama-guard-4": ["\n\nsafe"],
    "qwen3guard": ["Safety: Safe\nCategories: None\nRefusal: Yes", "safety: safe\ncategories: none\nrefusal: no\n"],
    "wildguard": ["Harmful request: yes\nResponse refusal: yes\nHarmful response: no"],
    "shieldgemma": ["No", " no\n"],
    "granite-guardian-3": ["No", "No\n<confidence> High </confidence>"],
    "granite-guardian-3.3": ["<score> no </score>", "<think>\n</think>\n<score> no </score>"],
    "granite-guardian-4.1": ["<think>\n</think>\n<score>no</score>"],
    "md-judge-v0.2": [md("safe, score 1"), md("safe 2"), md("safe 1", "None")],
    "openai-moderation": [openai(False)],
    "azure-text": [azure(), azure(Hate=1, Violence=1)],
}
UNSAFE_OUTPUTS = {
    "llama-guard-1": ["unsafe\nO3", "unsafe"],
    "llama-guard-2": ["unsafe\nS9,S1"],
    "llama-guard-3": ["\n\nunsafe\nS1,S10", "Unsafe\ns10", "unsafe\nS99"],
    "llama-guard-3-1b": ["\n\nunsafe\nS13", "unsafe\nS14"],
    "llama-guard-4": ["\n\nunsafe\nS14"],
    "qwen3guard": [
        "Safety: Unsafe\nCategories: Violent\nRefusal: No",
        "Safety: Controversial\nCategories: Unethical Acts, PII\nRefusal: No",
        "Safety: Unsafe\nCategories: Weather\nRefusal: No",
        "Safety: Unsafe\nCategories: None\nRefusal: No",
    ],
    "wildguard": ["Harmful request: yes\nResponse refusal: no\nHarmful response: yes\n"],
    "shieldgemma": ["Yes"],
    "granite-guardian-3": ["Yes", "yes\n<confidence> Low </confidence>"],
    "granite-guardian-3.3": ["<think>It says <score>no</score>, but</think><score> yes </score>"],
    "granite-guardian-4.1": ["<score>Yes</score>"],
    "md-judge-v0.2": [md("unsafe, score 4", "O1: Toxic Content"), md("unsafe 5"), "[RESULT]: unsafe\n"],
    "openai-moderation": [openai(True, "hate")],
    "azure-text": [azure(Violence=2)],
}
UNJUDGED_OUTPUTS = {
    "llama-guard-3": [
        "saf", "unsaf", "safe\nS1", "unsafe\nS1\nS2", "safe.", "The content is safe", "not safe", "safe unsafe",
        "I can't help with that.", "unsafe S1", "safe, S1",
    ],
    "qwen3guard": [
        "Safety: Safe", "Safety: Safe\nCategories: None", "Safety: Safe\nCategories: Violent\nRefusal: No",
        "Safety: Fine\nCategories: None\nRefusal: No", "Safety: Safe\nCategories: None\nRefusal: No\nMore.",
        "Categories: None\nSafety: Safe\nRefusal: No", "Sure! Safety: Safe\nCategories: None\nRefusal: No",
    ],
    "wildguard": [
        "Harmful request: no\nResponse refusal: no", "Harmful request: no\nResponse refusal: no\nHarmful response: n/a",
        "Harmful request: no\nResponse refusal: maybe\nHarmful response: no", "no\nno\nno",
        "Harmful request: no\nResponse refusal: no\nHarmful response: no\nHarmful response: yes",
    ],
    "shieldgemma": ["N", "No, because", "Nope", "Yes and no", "**No**"],
    "granite-guardian-3": ["No <confidence> Medium </confidence>", "No. High", "Failed", "No\nYes"],
    "granite-guardian-3.3": ["no", "<score> maybe </score>", "<score> no", "<think>no</think>",
        "<score>no</score> yes"],
    "granite-guardian-4.1": ["<score></score>", "<think>\n<score>no</score>!"],
    "md-judge-v0.2": [
        "safe", md("safe"), md("safe, score"),
        md("safe, score 6"), md("safe, score 4"), md("unsafe, score 1"), md("safe", "O1: Toxic Content"),
        md("safe 1", reasoning="It says [RESULT]: unsafe."), md("maybe"), md("safe\nmore words"), md("unsafe or safe"),
    ],
    "openai-moderation": [
        "{}", '{"results": []}', openai(True), openai(False, "hate"), openai("no"), openai(None), "[]", "null",
        '{"results": [{"flagged": false, "categories": {}, "category_scores": {}}]}', openai(False, hate=1.5),
        '{"results": [{"flagged": false, "categories": {"hate": "no"}, "category_scores": {}}]}',
        json.dumps({"results": [*json.loads(openai(False))["results"] * 2]}), openai(False, hate=math.nan),
        openai(False, hate=10**400),
    ],
    "azure-text": [
        "{}", '{"categoriesAnalysis": []}', azure(Violence=None), azure(Violence=8), azure(Violence=True),
        azure(Violence="0"), azure(Weather=0), '{"categoriesAnalysis": [{"category": "Hate", "severity": 0}]}',
        azure().replace('"Hate"', '["Hate"]'),
    ],
}  # fmt: skip
UNJUDGED_OUTPUTS |= {name: [] for name in FAMILIES if name not in UNJUDGED_OUTPUTS}


def cases(outputs: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(name, text) for name, texts in outputs.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), cases(SAFE_OUTPUTS))
def test_safe(name: str, text: str) -> None:
    verdict = read(name, text)
    assert verdict.unsafe is False and verdict.reason is None and verdict.raw == (text,)
    assert verdict.categories == frozenset() and verdict.severity == Severity.NONE


@pytest.mark.parametrize(("name", "text"), cases(UNSAFE_OUTPUTS))
def test_unsafe(name: str, text: str) -> None:
    verdict = read(name, text)
    assert verdict.unsafe is True and verdict.raw == (text,) and Severity.NONE not in verdict.severities


@pytest.mark.parametrize(
    ("name", "text"),
    [*cases(UNJUDGED_OUTPUTS), *((n, t) for n in FAMILIES if n != "gpt-oss-safeguard" for t in ("", " \n", "Sorry."))],
)
def test_unjudged(name: str, text: str) -> None:
    verdict = read(name, text)
    assert verdict.unsafe is None and verdict.reason in ("unparsable", "contradiction", "not applicable")
    assert verdict.raw == (text,)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gpt-oss-safeguard"])
def test_every_family_has_its_examples(name: str) -> None:
    assert SAFE_OUTPUTS[name] and UNSAFE_OUTPUTS[name]


WORDS = [
    "safe",
    "unsafe",
    "no",
    "yes",
    "No",
    "Yes",
    "Safety:",
    "Categories:",
    "Refusal:",
    "None",
    "Safe",
    "S1",
    ",",
    "\n",
]
WORDS += ["Harmful request:", "Response refusal:", "Harmful response:", "n/a", "[RESULT]:", "score 1", "<score>", " "]
WORDS += ["</score>", "<think>", "</think>", "[UNSAFE CATEGORY]:", "Violent", "Controversial", "maybe", "<confidence>"]


def says_safe(name: str, text: str, *, pair: bool) -> bool:
    """Whether a text is all of a safe answer and nothing else, told without the parsers: blanks out, cases folded."""
    told = "".join(text.split()).casefold()
    word = "(yes|no)"
    tail = r"(,?(score:?)?[12])\.*(\[unsafecategory\]:?(none|n/a)?)?"
    wholes = {
        "qwen3guard": "safety:safecategories:none" + ("refusal:(yes|no)" if pair else ""),
        "wildguard": f"harmfulrequest:{word}responserefusal:{word[:-1]}|n/a)harmfulresponse:no"
        if pair
        else f"harmfulrequest:noresponserefusal:{word[:-1]}|n/a)harmfulresponse:{word[:-1]}|n/a)",
        "shieldgemma": "no",
        "granite-guardian-3": "no(<confidence>(high|low)</confidence>)?",
        "granite-guardian-3.3": "(<think>.*</think>)?<score>no</score>",
        "granite-guardian-4.1": "(<think>.*</think>)?<score>no</score>",
        "md-judge-v0.2": r"(?!.*\[result\].*\[result\]).*\[result\]:?safe" + tail,
    }
    return re.fullmatch(wholes.get(name, "safe"), told) is not None


TEXTUAL = [name for name in SAFE_OUTPUTS if name not in ("openai-moderation", "azure-text")]


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(TEXTUAL), st.lists(st.sampled_from(WORDS), max_size=14), st.booleans())
def test_a_jumble_of_its_own_words_is_safe_only_if_it_is_a_whole_safe_answer(
    name: str, words: list[str], pair: bool
) -> None:
    text = "".join(words)
    pair = pair or name == "md-judge-v0.2"
    assert read(name, text, pair=pair).unsafe is not False or says_safe(name, text, pair=pair)


@settings(max_examples=800, deadline=None)
@given(st.sampled_from([case for case in cases(SAFE_OUTPUTS) if case[0] in TEXTUAL]), st.data())
def test_a_safe_answer_with_a_change_is_safe_only_if_it_still_is_whole(
    case: tuple[str, str], data: st.DataObject
) -> None:
    name, text = case
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    text = text[:start] + data.draw(st.sampled_from(["", "x", " ", "\n", "un", "Yes", "<score>", "but"])) + text[end:]
    assert read(name, text).unsafe is not False or says_safe(name, text, pair=True)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["openai-moderation", "azure-text"]), st.integers(0, 2000))
def test_half_a_document_is_unjudged(name: str, keep: int) -> None:
    whole = SAFE_OUTPUTS[name][0]
    assert keep >= len(whole) or read(name, whole[:keep]).unsafe is None


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SAFE_OUTPUTS)), st.text(max_size=60))
def test_no_text_breaks_a_parser(name: str, text: str) -> None:
    assert read(name, text).unsafe is None or text.strip().casefold() in ("yes", "no", "safe", "unsafe")


def test_codes_are_read_in_the_version_that_wrote_them() -> None:
    five = {name: read(name, "unsafe\nS5").named for name in ("llama-guard-2", "llama-guard-3", "llama-guard-4")}
    assert five == {
        "llama-guard-2": ("Specialized Advice",), "llama-guard-3": ("Defamation",), "llama-guard-4": ("Defamation",)
    }  # fmt: skip
    assert read("llama-guard-1", "unsafe\nO3").named == ("Criminal Planning",)


@pytest.mark.parametrize(
    ("name", "text"),
    [("llama-guard-2", "unsafe\nS1,S12"), ("llama-guard-1", "unsafe\nS1"), ("llama-guard-3-1b", "unsafe\nS2,S14")],
)
def test_a_code_of_another_version_leaves_all_categories_unknown(name: str, text: str) -> None:
    verdict = read(name, text)
    assert verdict.unsafe and verdict.categories is None and verdict.named == ()
    assert verdict.details == {"unread categories": text.split("\n")[1]} and len(verdict.undecided) == 19


def test_the_crosswalk_keeps_what_is_set_and_what_is_open() -> None:
    verdict = read("llama-guard-3", "unsafe\nS1,S10")
    assert verdict.categories == {Category.S3, Category.S6} and verdict.taxonomy == "llama-guard-3"
    assert len(verdict.undecided) == 17 and not verdict.absent  # it names the first that come to mind
    assert {(c.source, str(c.relation), c.target) for c in verdict.lossy} >= {
        ("Hate", "~", "Insulting Behavior"), ("Violent Crimes", ">", "Animal Abuse")
    }  # fmt: skip
    told = verdict.to_json()
    assert told["named"] == ["Violent Crimes", "Hate"] and "Hate ~ Insulting Behavior" in told["lossy"]


def test_minors_are_never_turned_into_another_category_by_an_overlap() -> None:
    verdict = read("llama-guard-3", "unsafe\nS4")
    assert verdict.unsafe and verdict.named == ("Child Sexual Exploitation",)


def test_the_middle_tier_is_read_either_way_from_one_verdict() -> None:
    text = "Safety: Controversial\nCategories: Copyright Violation\nRefusal: No"
    logprobs = tuple((t, 0.0, {t: 0.0}) for t in ("Safety", ":", " "))
    tiers = {"Cont": math.log(0.6), "Unsafe": math.log(0.3), "Safe": math.log(0.1)}
    logprobs += (("Cont", math.log(0.6), tiers), (text.split("Cont", 1)[1], 0.0, {"x": 0.0}))
    strict = read("qwen3guard", text, logprobs=logprobs)
    assert strict.unsafe and strict.probability == pytest.approx(0.9) and strict.categories == {Category.S5}
    assert strict.severity == Severity.MINOR and strict.refusal is False and strict.level == "Controversial"
    loose = strict.at(strict=False)
    assert loose.unsafe is False and loose.probability == pytest.approx(0.3) and loose.categories == frozenset()
    assert loose == read("qwen3guard", text, logprobs=logprobs, strict=False)
    assert loose.at(strict=True) == strict and strict.at(strict=True) is strict
    other = read("llama-guard-3", "safe")
    assert other.at(strict=False) is other


def test_qwen_tells_no_refusal_of_a_prompt_and_unsafe_may_be_moderate_or_severe() -> None:
    verdict = read("qwen3guard", "Safety: Unsafe\nCategories: Violent, Jailbreak", pair=False)
    assert verdict.unsafe and verdict.refusal is None and verdict.named == ("Violent", "Jailbreak")
    assert verdict.severities == (Severity.MODERATE, Severity.SEVERE) and verdict.severity is None


def test_wildguard_tells_of_prompt_refusal_and_response() -> None:
    verdict = read("wildguard", "Harmful request: yes\nResponse refusal: yes\nHarmful response: no")
    assert (verdict.unsafe, verdict.refusal, verdict.prompt_unsafe) == (False, True, True)
    alone = read("wildguard", "Harmful request: yes\nResponse refusal: n/a\nHarmful response: n/a", pair=False)
    assert (alone.unsafe, alone.refusal, alone.prompt_unsafe) == (True, None, None)


def test_md_judge_scores_become_levels() -> None:
    verdict = read("md-judge-v0.2", md("unsafe, score 4", "O1: Toxic Content"))
    assert verdict.severity == Severity.MODERATE and verdict.level == "4" and verdict.named == ("O1: Toxic Content",)
    assert verdict.details == {"reasoning": "It helps."} and verdict.categories is None


def test_granite_confidence_is_no_severity() -> None:
    verdict = read("granite-guardian-3", "Yes\n<confidence> High </confidence>")
    assert verdict.details == {"confidence": "High"} and verdict.severities == ()


def test_openai_scores_are_a_probability_and_never_a_severity() -> None:
    verdict = read("openai-moderation", openai(True, "hate", "illicit/violent", hate=0.7))
    assert verdict.named == ("hate", "illicit/violent") and verdict.probability == 0.9 and verdict.severities == ()
    assert verdict.categories is not None and Category.S3 in verdict.categories
    older = read("openai-moderation", openai(False, leave=("illicit", "illicit/violent")))
    whole = read("openai-moderation", openai(False))
    assert older.unsafe is False and older.absent < whole.absent  # what was not looked at is not excluded


def test_azure_levels() -> None:
    verdict = read("azure-text", azure(Violence=5, Hate=2))
    assert verdict.severity == Severity.MODERATE and verdict.level == "5" and verdict.named == ("Hate", "Violence")
    assert verdict.probability is None and Category.S6 in (verdict.categories or ())


SAFEGUARD = "gpt-oss-safeguard"


def told(violation: object, category: object, severity: object, rationale: object = "") -> dict[str, object]:
    return {"violation": violation, "policy_category": category, "severity": severity, "rationale": rationale}


def test_safeguard_speaks_our_categories_and_levels() -> None:
    verdict = read(SAFEGUARD, "{}", value=told(1, ["S14", "S6"], "severe", "It helps."))
    assert verdict.unsafe and verdict.severity == Severity.SEVERE and codes(verdict.categories or ()) == ["S6", "S14"]
    assert len(verdict.absent) == 17 and not verdict.undecided and verdict.details == {"rationale": "It helps."}
    assert read(SAFEGUARD, "{}", value=told(0, [], "none")).unsafe is False
    text = '{"violation": 1, "policy_category": ["S6"], "severity": "minor", "rationale": ""}'
    logprobs = (('{"violation": ', 0.0, {"x": 0.0}), ("1", math.log(0.8), {"1": math.log(0.8), "0": math.log(0.2)}))
    logprobs += ((text[15:], 0.0, {"x": 0.0}),)
    sure = read(SAFEGUARD, text, value=json.loads(text), logprobs=logprobs)
    assert sure.probability == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "unparsable"),
        ({"violation": 0}, "unparsable"),
        (told(0, [], "none") | {"more": 1}, "unparsable"),
        (told(0, ["S1"], "minor"), "contradiction"),
        (told(1, [], "none"), "contradiction"),
        (told(1, ["S1"], "none"), "contradiction"),
        (told(0, [], "severe"), "contradiction"),
        (told(0, ["S99"], "none"), "contradiction"),
        (told(2, ["S1"], "minor"), "contradiction"),
        (told(None, [], "none"), "contradiction"),
    ],
)
def test_safeguard_that_contradicts_itself_is_unjudged(value: object, reason: str) -> None:
    assert read(SAFEGUARD, "{}", value=value).reason == reason
