"""Azure's own SDK against a real server: all that it reads is there, and faults raise its errors with its codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted import ScriptedGuard, serving

from poise.serve.app import Service

sdk = pytest.importorskip("azure.ai.contentsafety", reason="azure-ai-contentsafety is not installed")
core = pytest.importorskip("azure.core", reason="azure-ai-contentsafety is not installed")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from azure.core.credentials import AzureKeyCredential

    with serving(Service(ScriptedGuard()).app) as url:
        yield sdk.ContentSafetyClient(url, AzureKeyCredential("any"), retry_total=0)


def analyze(client: Any, text: str, **more: Any) -> Any:
    return client.analyze_text(sdk.models.AnalyzeTextOptions(text=text, **more))


def levels(answer: Any) -> dict[str, int]:
    return {entry.category: entry.severity for entry in answer.categories_analysis}


def test_levels_and_our_fields(client: Any) -> None:
    category = sdk.models.TextCategory
    answer = analyze(client, "bad Violence")
    assert levels(answer) == {category.HATE: 0, category.SEXUAL: 0, category.VIOLENCE: 6}
    assert answer.blocklists_match == [] and answer["notEvaluated"] == ["SelfHarm"] and answer["severity"] == "severe"
    eight = sdk.models.AnalyzeTextOutputType.EIGHT_SEVERITY_LEVELS
    assert levels(analyze(client, "fine", categories=[category.HATE], output_type=eight)) == {category.HATE: 0}


@pytest.mark.parametrize(
    ("text", "more", "status", "code"),
    [
        ("", {}, 400, "InvalidRequestBody"),
        ("x" * 10_001, {}, 400, "InvalidRequestBody"),
        ("a", {"categories": ["Nonsense"]}, 400, "InvalidRequestBody"),
        ("a", {"blocklist_names": ["mine"]}, 400, "InvalidRequestBody"),
        ("a", {"categories": ["SelfHarm"]}, 404, "NotFound"),
        ("boom", {}, 503, "ServiceUnavailable"),
        ("odd", {}, 503, "ServiceUnavailable"),
    ],
)
def test_faults_are_the_sdks_own_errors(client: Any, text: str, more: dict[str, Any], status: int, code: str) -> None:
    with pytest.raises(core.exceptions.HttpResponseError) as caught:
        analyze(client, text, **more)
    assert (caught.value.status_code, caught.value.error.code) == (status, code)
    if "blocklist_names" in more:
        assert "blocklistNames must be empty: there are none here" in caught.value.message
