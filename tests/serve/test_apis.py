"""The other APIs, by clients of their shape: what they read is there, in their words and levels."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import ScriptedGuard, safe, serving, unsafe

from poise.guard.verdict import Verdict, judged
from poise.harm import CATEGORIES, Severity
from poise.serve.app import Service

AZURE = "/contentsafety/text:analyze?api-version=2024-09-01"
LITELLM = "/beta/litellm_basic_guardrail_api"
PERSPECTIVE = "/v1alpha1/comments:analyze"
Shared = tuple[ScriptedGuard, Any]


def post(shared: Shared, path: str, body: Any) -> Any:
    answer = shared[1].post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


class Fixed:
    """One verdict for everything."""

    name = "fixed"

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def judge(self, items: Any) -> list[Verdict]:
        return [self.verdict] * len(items)


def azure_levels(answer: Any) -> dict[str, int]:
    return {entry["category"]: entry["severity"] for entry in answer["categoriesAnalysis"]}


def test_azure_gives_levels_and_says_what_it_can_not_see(shared: Shared) -> None:
    answer = post(shared, AZURE, {"text": "bad Violence"})
    assert azure_levels(answer) == {"Hate": 0, "Sexual": 0, "Violence": 6}
    assert answer["notEvaluated"] == ["SelfHarm"] and answer["blocklistsMatch"] == []
    assert azure_levels(post(shared, AZURE, {"text": "fine"})) == {"Hate": 0, "Sexual": 0, "Violence": 0}
    some = post(shared, AZURE, {"text": "bad Violence", "categories": ["Sexual", "SelfHarm"]})
    assert azure_levels(some) == {"Sexual": 0} and some["notEvaluated"] == ["SelfHarm"]


def test_azure_overlaps_carry_the_severity_and_foreign_harms_do_not(shared: Shared) -> None:
    assert azure_levels(post(shared, AZURE, {"text": "bad Physical Harm"}))["Violence"] == 6
    drugs = post(shared, AZURE, {"text": "bad Drugs"})
    assert set(azure_levels(drugs).values()) == {0} and drugs["unsafe"] is True and drugs["severity"] == "severe"


@pytest.mark.parametrize(
    ("severity", "shares", "four", "eight"),
    [
        (Severity.MINOR, (0.2, 0.7, 0.05, 0.05), 2, 2),  # expected 0.95
        (Severity.MINOR, (0.0, 0.6, 0.3, 0.1), 2, 3),  # expected 1.5
        (Severity.MODERATE, (0.1, 0.1, 0.6, 0.2), 4, 4),  # expected 1.9
        (Severity.MODERATE, (0.0, 0.0, 0.7, 0.3), 4, 5),  # expected 2.3
        (Severity.SEVERE, (0.0, 0.0, 0.0, 1.0), 6, 6),
    ],
)
def test_azures_eight_levels_never_disagree_with_its_four(
    severity: Severity, shares: tuple[float, ...], four: int, eight: int
) -> None:
    import httpx

    guard = Fixed(unsafe("Violence", severity=severity, severity_probabilities=shares))
    with serving(Service(guard).app) as url:
        for kind, level in (("FourSeverityLevels", four), ("EightSeverityLevels", eight)):
            answer = httpx.post(url + AZURE, json={"text": "x", "outputType": kind}).json()
            assert azure_levels(answer)["Violence"] == level


def test_azure_speaks_its_own_errors(shared: Shared) -> None:
    for path, body, code in (
        (AZURE, {"text": ""}, "InvalidRequestBody"),
        (AZURE, {"text": "x" * 10_001}, "InvalidRequestBody"),
        (AZURE, {"text": "x", "blocklistNames": ["mine"]}, "InvalidRequestBody"),
        (AZURE, {"text": "x", "categories": ["SelfHarm"]}, "NotFound"),
        ("/contentsafety/text:analyze", {"text": "x"}, "InvalidRequestBody"),
        ("/contentsafety/text:analyze?api-version=soon", {"text": "x"}, "InvalidRequestBody"),
        (AZURE, {"text": "boom"}, "ServiceUnavailable"),
        (AZURE, {"text": "odd"}, "ServiceUnavailable"),
        ("/contentsafety/image:analyze?api-version=2024-09-01", {}, "NotFound"),
    ):
        answer = shared[1].post(path, json=body)
        assert answer.json()["error"]["code"] == code == answer.headers["x-ms-error-code"], answer.text
        assert answer.status_code == {"ServiceUnavailable": 503, "NotFound": 404}.get(code, 400)


def test_a_guard_without_severity_is_no_azure() -> None:
    import httpx

    with serving(Service(Fixed(judged(True, taxonomy="pku-19", named=["S6"]))).app) as url:
        assert httpx.post(url + AZURE, json={"text": "x"}).status_code == 503
        result = httpx.post(url + "/v1/moderations", json={"input": "x"}).json()["results"][0]
        assert result["categories"]["violence"] and result["category_scores"]["violence"] == 1.0
        assert (result["severity"], result["harm_category_scores"]) == (None, None)


def test_litellm_is_told_to_block(shared: Shared) -> None:
    fine = post(shared, LITELLM, {"texts": ["fine"], "input_type": "request", "litellm_version": "1"})
    assert (fine["action"], fine["blocked_reason"]) == ("NONE", None)
    bad = post(shared, LITELLM, {"texts": ["fine", "bad Drugs"], "input_type": "request"})
    assert (bad["action"], bad["blocked_reason"]) == ("BLOCKED", "Drugs (severe)")
    for text in ("odd", "boom"):
        answer = shared[1].post(LITELLM, json={"texts": ["fine", text], "input_type": "request"})
        assert answer.status_code == 503
    assert shared[1].post(LITELLM, json={"texts": ["a"], "images": ["b"], "input_type": "request"}).status_code == 400
    for nothing in ([], [""], [" ", "\n"]):
        assert shared[1].post(LITELLM, json={"texts": nothing, "input_type": "request"}).status_code == 400


def test_litellm_responses_are_judged_with_their_question_and_tools_are_not_missed(shared: Shared) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "why"}]}, {"role": "assistant", "content": "x"}]
    body = {"texts": ["because", ""], "input_type": "response", "structured_messages": messages}
    post(shared, LITELLM, body)
    assert shared[0].seen[-1] == ("why", "because")
    odd = [{"role": "user", "content": "old"}, {"role": "user", "content": "wh\x07y\x00"}]
    post(shared, LITELLM, body | {"structured_messages": odd})
    assert shared[0].seen[-1] == ("wh y", "because")
    call = {"function": {"name": "mail", "arguments": '{"text": "bad Economic Crime"}'}}
    assert post(shared, LITELLM, {"tool_calls": [call], "input_type": "response"})["action"] == "BLOCKED"
    bare = {"function": {"name": "ping", "arguments": ""}}
    assert post(shared, LITELLM, {"texts": [" \n"], "tool_calls": [bare], "input_type": "response"})["action"] == "NONE"
    assert shared[0].seen[-1] == ("{}", None)


def test_litellm_context_is_cut_so_that_it_fits_every_answer(shared: Shared) -> None:
    question = "because of … " * 7_000  # 91,000 characters; each … becomes three
    body = {
        "texts": ["fine"] * 8,
        "input_type": "response",
        "structured_messages": [{"role": "user", "content": question}],
    }
    post(shared, LITELLM, body)  # in full, eight times, it would be above the 400,000 of a request
    prompt, answer = shared[0].seen[-1]
    assert answer == "fine" and question.strip().endswith(prompt) and len(prompt) > 20_000


def test_litellm_blocks_from_the_operators_level_on() -> None:
    import httpx

    guard = Fixed(unsafe("Drugs", severity=Severity.MINOR))
    body = {"texts": ["x"], "input_type": "request"}
    for level, action in ((Severity.MINOR, "BLOCKED"), (Severity.MODERATE, "NONE")):
        with serving(Service(guard, block_at=level).app) as url:
            assert httpx.post(url + LITELLM, json=body).json()["action"] == action


def test_litellm_blocks_as_the_guard_says_where_the_operator_does_not() -> None:
    """A calibrated guard holds back from moderate on, by its own threshold; the operator's level goes before it."""
    import httpx

    guard = Fixed(unsafe("Drugs", severity=Severity.MINOR))
    body = {"texts": ["x"], "input_type": "request"}
    cases = [
        (Severity.MODERATE, False, None, "NONE"),
        (Severity.MODERATE, True, None, "BLOCKED"),
        (Severity.MODERATE, False, Severity.MINOR, "BLOCKED"),
        (Severity.MODERATE, True, Severity.MODERATE, "NONE"),
        (None, False, None, "BLOCKED"),
    ]
    for own, says, level, action in cases:
        guard.block_at, guard.blocks = own, lambda _, says=says: says  # type: ignore[attr-defined]
        with serving(Service(guard, block_at=level).app) as url:
            assert httpx.post(url + LITELLM, json=body).json()["action"] == action


def test_vllm_classify(shared: Shared) -> None:
    answer = post(shared, "/classify", {"model": "scripted", "input": ["fine", "bad Violence"]})
    assert [(row["index"], row["label"], row["num_classes"]) for row in answer["data"]] == [
        (0, "safe", 2),
        (1, "unsafe", 2),
    ]
    assert answer["data"][1]["probs"] == pytest.approx([0.05, 0.95])
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert post(shared, "/classify", {"messages": talk})["data"][0]["unit"] == "pair"
    assert shared[0].seen[-1] == ("q", "a")
    for body in ({"input": "odd"}, {"input": ["fine", "odd"]}, {"input": "boom"}):
        assert shared[1].post("/classify", json=body).status_code == 503


def test_tei_predict(shared: Shared) -> None:
    assert [row["label"] for row in post(shared, "/predict", {"inputs": "fine"})] == ["safe", "unsafe"]
    post(shared, "/predict", {"inputs": ["q", "a"]})
    assert shared[0].seen[-1] == ("q", "a")
    rows = post(shared, "/predict", {"inputs": [["q", "bad Drugs"], ["alone"]]})
    assert [row[0]["label"] for row in rows] == ["unsafe", "safe"]
    for body, status, kind in (
        ({"inputs": ""}, 400, "Empty"),
        ({"inputs": []}, 400, "Empty"),
        ({"inputs": [[]]}, 400, "Empty"),
        ({"inputs": ["a", "b", "c"]}, 422, "Validation"),
        ({"inputs": 5}, 422, "Validation"),
        ({"inputs": "a", "raw_scores": True}, 422, "Validation"),
        ({"inputs": "boom"}, 503, "Unhealthy"),
        ({"inputs": "odd"}, 503, "Unhealthy"),
    ):
        answer = shared[1].post("/predict", json=body)
        assert (answer.status_code, answer.json()["error_type"]) == (status, kind), answer.text


def test_perspective_scores_are_probabilities(shared: Shared) -> None:
    keys = ["TOXICITY", "SEVERE_TOXICITY", "INSULT", "IDENTITY_ATTACK", "THREAT", "PROFANITY"]
    asked: dict[str, Any] = {key: {} for key in keys}
    body = {"comment": {"text": "bad Insulting Behavior"}, "requestedAttributes": asked, "languages": ["en"]}
    answer = post(shared, PERSPECTIVE, body | {"clientToken": "t", "doNotStore": True})
    values = {key: told["summaryScore"]["value"] for key, told in answer["attributeScores"].items()}
    assert values["INSULT"] == pytest.approx(0.9) and values["IDENTITY_ATTACK"] == pytest.approx(0.01)
    assert values["TOXICITY"] == pytest.approx(1 - 0.1 * 0.99)
    assert values["SEVERE_TOXICITY"] == pytest.approx(1 - 0.1 * 0.99)  # P(severity >= moderate) is .98, above it
    assert answer["notEvaluated"] == ["PROFANITY", "THREAT"]
    assert (answer["languages"], answer["clientToken"], answer["guardVersion"]) == (["en"], "t", "v1")
    body["requestedAttributes"] = {"INSULT": {"scoreThreshold": 0.95}}
    assert post(shared, PERSPECTIVE, body)["attributeScores"] == {}


def test_perspective_speaks_googles_errors(shared: Shared) -> None:
    for text, asked, status in (
        ("x", {"THREAT": {}}, "NOT_FOUND"),
        ("x", {"NICENESS": {}}, "INVALID_ARGUMENT"),
        ("x", {}, "INVALID_ARGUMENT"),
        ("", {"INSULT": {}}, "INVALID_ARGUMENT"),
        ("boom", {"INSULT": {}}, "UNAVAILABLE"),
        ("odd", {"INSULT": {}}, "UNAVAILABLE"),
    ):
        body = {"comment": {"text": text}, "requestedAttributes": asked}
        error = shared[1].post(PERSPECTIVE, json=body).json()["error"]
        assert error["status"] == status and error["code"] == {"UNAVAILABLE": 503, "NOT_FOUND": 404}.get(status, 400)


def test_whole_verdicts_keep_three_states(shared: Shared) -> None:
    items = [
        {"prompt": "bad Drugs"},
        {"prompt": "q", "response": "fine"},
        {"messages": [{"role": "user", "content": "odd"}]},
    ]
    answer = post(shared, "/v1/judge", {"items": items})
    assert [verdict["unsafe"] for verdict in answer["verdicts"]] == [True, False, None]
    assert [verdict["unit"] for verdict in answer["verdicts"]] == ["text", "pair", "text"]
    assert answer["verdicts"][0]["categories"] == ["Drugs"] and answer["verdicts"][2]["unjudged"] == "unparsable"
    talk = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    post(shared, "/v1/judge", {"items": [{"messages": talk}]})
    assert shared[0].seen[-1] == ("a\nb\nc", None)


def test_category_probabilities_are_nineteen_within_bounds() -> None:
    for wrong in ((0.5,) * 18, (1.5,) * len(CATEGORIES), (float("nan"),) * len(CATEGORIES)):
        with pytest.raises(ValueError, match="category probabilities"):
            safe(category_probabilities=wrong)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/judge", {"items": [{"prompt": "a", "response": None}]}, "items.0.response must be string"),
        ("/v1/judge", {"items": [{"messages": [{"role": "bot"}]}]}, "items.0.messages.0.role must be one of"),
        ("/v1/judge", {"items": [{"response": "a"}]}, "items.0 lacks 'prompt'"),
        ("/classify", {"input": "a", "messages": []}, "the body has the unknown field 'messages'"),
        ("/classify", {"messages": [{"role": "user"}]}, "messages.0 lacks 'content'"),
        ("/predict", {"inputs": ["a", "b", "c"]}, "inputs has more than 2 entries"),
    ],
)
def test_of_several_forms_the_fault_of_the_one_that_was_meant_is_told(
    shared: Shared, path: str, body: Any, said: str
) -> None:
    assert said in shared[1].post(path, json=body).text
