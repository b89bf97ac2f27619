"""The official SDK against a real server: all that it reads is there, and faults raise the errors that it knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted import ScriptedGuard, serving

from poise.harm import CATEGORIES
from poise.harm.taxonomy import load_taxonomy
from poise.serve.app import Service

openai = pytest.importorskip("openai", reason="the openai SDK is not installed")
KEYS = load_taxonomy("openai-13").keys
EVALUATED = {"harassment", "hate", "illicit", "sexual", "violence"}


@pytest.fixture(scope="module")
def guard() -> ScriptedGuard:
    return ScriptedGuard()


@pytest.fixture(scope="module")
def client(guard: ScriptedGuard) -> Iterator[Any]:
    with serving(Service(guard).app) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def told(result: Any, name: str) -> dict[str, Any]:
    return dict(getattr(result, name).model_dump(by_alias=True))


def test_a_string_gives_one_result_with_all_keys(client: Any) -> None:
    answer = client.moderations.create(model="omni-moderation-latest", input="bad Violence")
    (result,) = answer.results
    assert answer.id.startswith("modr-") and answer.model == "scripted" and answer.guard_version == "v1"
    assert result.flagged and result.categories.violence and not result.categories.hate
    for part in ("categories", "category_scores", "category_applied_input_types"):
        assert sorted(told(result, part)) == sorted(KEYS)
    assert result.category_scores.violence == pytest.approx(0.9)
    # noisy-or of the five of ours inside "illicit": drugs, economic and white-collar crime, trafficking, cybercrime
    assert result.category_scores.illicit == pytest.approx(1 - 0.99**5)


def test_keys_that_our_categories_cannot_see_are_not_evaluated(client: Any) -> None:
    (result,) = client.moderations.create(input="bad Sexual Content").results
    applied, scores = told(result, "category_applied_input_types"), told(result, "category_scores")
    assert {key for key, kinds in applied.items() if kinds == ["text"]} == EVALUATED
    assert all(scores[key] == 0 and applied[key] == [] for key in set(KEYS) - EVALUATED)
    assert result.categories.sexual and not result.categories.sexual_minors


def test_our_fields_are_beside_theirs(client: Any) -> None:
    (result,) = client.moderations.create(input="bad Drugs").results
    assert (result.severity, result.severity_level, result.unjudged, result.unit) == ("severe", 3, None, "text")
    assert set(result.harm_categories) == {c.value for c in CATEGORIES} and result.harm_categories["Drugs"] is True
    assert result.harm_category_scores["Drugs"] == pytest.approx(0.9)
    assert sum(result.severity_scores.values()) == pytest.approx(1.0)
    assert result.categories.illicit


def test_a_harm_that_overlaps_only_is_flagged_as_approximate(client: Any) -> None:
    (copyright_, animals) = client.moderations.create(input=["bad Copyright Issues", "bad Animal Abuse"]).results
    assert copyright_.flagged and copyright_.categories.illicit
    assert copyright_.approximate_categories == ["illicit"]
    assert animals.flagged and not any(told(animals, "categories").values())  # no key of theirs that we can see


def test_lists_and_parts(client: Any, guard: ScriptedGuard) -> None:
    answer = client.moderations.create(input=["one", "bad Violence", "two"])
    assert [result.flagged for result in answer.results] == [False, True, False]
    parts = [{"type": "text", "text": "three"}, {"type": "text", "text": "four"}]
    assert len(client.moderations.create(input=parts).results) == 1
    assert guard.seen[-1] == ("three\nfour", None)


def test_a_prompt_makes_the_inputs_responses(client: Any, guard: ScriptedGuard) -> None:
    (result,) = client.moderations.create(input="the answer", extra_body={"prompt": "the question"}).results
    assert guard.seen[-1] == ("the question", "the answer") and result.unit == "pair"


def test_an_unjudged_text_among_others_is_never_safe(client: Any) -> None:
    good, odd = client.moderations.create(input=["fine", "odd"]).results
    assert (good.flagged, good.unjudged) == (False, None)
    assert (odd.flagged, odd.unjudged) == (True, "unparsable")
    assert not any(told(odd, "category_applied_input_types").values())
    with pytest.raises(openai.InternalServerError) as caught:
        client.moderations.create(input="odd")
    assert caught.value.status_code == 503 and caught.value.code == "unjudged"


@pytest.mark.parametrize(
    ("asked", "error", "code"),
    [
        ({"input": ""}, "BadRequestError", "empty_input"),
        ({"input": []}, "BadRequestError", "empty_input"),
        ({"input": ["a", "  "]}, "BadRequestError", "empty_input"),
        ({"input": 5}, "BadRequestError", "invalid_value"),
        ({"input": [["a"]]}, "BadRequestError", "invalid_value"),
        ({"input": "a", "model": "gpt-4o"}, "NotFoundError", "model_not_found"),
        ({"input": "a", "extra_body": {"promt": "b"}}, "BadRequestError", "invalid_value"),
        ({"input": "a\x00b"}, "BadRequestError", "invalid_characters"),
        ({"input": "x" * 100_001}, "BadRequestError", "string_above_max_length"),
        ({"input": ["x"] * 257}, "BadRequestError", "array_above_max_length"),
        (
            {"input": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
            "BadRequestError",
            "image_input_not_supported",
        ),
        ({"input": "boom"}, "InternalServerError", "guard_unavailable"),
    ],
)
def test_faults_are_the_sdks_own_errors(client: Any, asked: dict[str, Any], error: str, code: str) -> None:
    with pytest.raises(getattr(openai, error)) as caught:
        client.moderations.create(**asked)
    assert caught.value.code == code and caught.value.type in {"invalid_request_error", "server_error"}


def test_the_sdk_does_not_repeat_what_can_not_be_judged(client: Any, guard: ScriptedGuard) -> None:
    before = len(guard.seen)
    with pytest.raises(openai.InternalServerError):
        client.with_options(max_retries=2).moderations.create(input="odd")
    assert len(guard.seen) == before + 1
