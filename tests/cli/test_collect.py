"""`poise collect` against the fake server, as a user would type it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poise.cli.collecting import read_plan
from poise.cli.main import main
from poise.data.records import PromptRecord
from poise.data.tables import TableWriter, open_tables
from poise.errors import PoiseError
from poise.llm.fake import answers

RECIPES = Path(__file__).parents[2] / "recipes"
PLAN = """
name: tested
models:
  big: {{model: big, endpoints: ["{url}"]}}
prompts:
  categories: [S5, S6]
  severities: [none, severe]
  quota: 4
  sources:
    seeds: {{share: 0.25, tables: seeds}}
    big: {{share: 0.75, model: big, operations: {{generate: 0.8, rephrase: 0.2}}}}
responses:
  responders:
    big: {{model: big, hotter: 3, personas: [{{name: a}}, {{name: b, system: Be brief.}}]}}
  keep: 2
  pairs: 1
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log.jsonl"


@pytest.fixture(scope="module")
def url(log: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "poise.llm.fake", "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.kill()


@pytest.fixture
def plan(tmp_path: Path, url: str) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.format(url=url))
    return path


@pytest.fixture
def sends(log: Path) -> Callable[[], int]:
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


def test_prompts_and_answers_from_a_plan(
    plan: Path, tmp_path: Path, sends: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sends()
    out, answered = tmp_path / "prompts", tmp_path / "answers"
    assert main(["collect", "prompts", str(plan), "--out", str(out), "--dry-run"]) == 0
    assert "requests, 0 of them answered before" in capsys.readouterr().out
    assert sends() == before and not out.exists() and list(tmp_path.iterdir()) == [plan]
    assert main(["collect", "prompts", str(plan), "--out", str(out)]) == 0
    rows = list(open_tables(out)["prompt"].records())
    assert len(rows) == 16
    assert Counter((row.category, row.severity) for row in rows) == {  # type: ignore[attr-defined]
        (category, level): 4 for category in ("S5", "S6") for level in (0, 3)
    }
    assert main(["collect", "lineage", str(out)]) == 0
    assert "16 prompts, 16 lead back" in capsys.readouterr().out
    made = next(row for row in rows if row.provenance and row.provenance["operation"] == "generate")
    assert main(["collect", "lineage", str(out), made.source_id or ""]) == 0
    assert "generate by big" in capsys.readouterr().out
    assert main(["data", "validate", str(out)]) == 0
    command = ["collect", "responses", str(plan), str(out), "--out", str(answered)]
    assert main(command) == 0
    tables = open_tables(answered)
    assert tables.rows == {"default": 16, "qa": 32, "prompt": 16}
    assert main(["data", "validate", str(answered)]) == 0
    sent = sends()
    assert main([*command, "--force"]) == 0 and sends() == sent  # all of it is in the store
    assert main(command) == 2  # in use
    capsys.readouterr()
    assert main(["llm", "replies", str(answered) + ".replies.sqlite"]) == 0
    assert "done       64" in capsys.readouterr().out


def test_answers_by_batch_files(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a batch brings back is the same as what the server would have said."""
    out = tmp_path / "prompts"
    assert main(["collect", "prompts", str(plan), "--out", str(out)]) == 0
    store, batches = str(tmp_path / "replies.sqlite"), tmp_path / "batches"
    command = ["collect", "responses", str(plan), str(out), "--out", str(tmp_path / "a"), "--store", store]
    assert main([*command, "--batch-out", str(batches)]) == 0
    lines = [json.loads(line) for line in (batches / "batch-00000.jsonl").read_text().splitlines()]
    assert len(lines) == 64
    results = []
    for line in lines:
        found = answers.answer(line["body"], answers.answer_key(0, line["body"], answers.body_hash(line["body"]), ""))
        response = {"status_code": 200, "body": answers.reply_body(line["body"], found, chat=True)}
        results.append(json.dumps({"custom_id": line["custom_id"], "response": response, "error": None}))
    (tmp_path / "results.jsonl").write_text("\n".join(results))
    requests = str(batches / "batch-00000.requests.jsonl")
    assert main(["llm", "read-batch", str(tmp_path / "results.jsonl"), requests, "--store", store]) == 0
    assert "done       64" in capsys.readouterr().out
    plan.write_text(PLAN.format(url="http://127.0.0.1:9/v1"))  # nobody answers there, and nobody is asked
    assert main(command) == 0


def test_a_batch_is_for_those_behind_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, plan = tmp_path / "prompts", tmp_path / "plan.yaml"
    with TableWriter(prompts, {"name": "told"}) as writer:
        writer.add(PromptRecord(prompt="How do I bake bread?", source_id="p1"))
    mine = "name: local\nmodels: {big: {model: big, endpoints: [http://127.0.0.1:9/v1]}, mine: {model: some/model}}\n"
    command = ["collect", "responses", str(plan), str(prompts), "--out", str(tmp_path / "a"), "--batch-out"]
    plan.write_text(f"{mine}responses: {{responders: {{one: {{model: mine}}}}}}\n")
    assert main([*command, str(tmp_path / "b")]) == 2
    told = capsys.readouterr()
    assert "no responder is behind a server" in told.err and "nothing is missing" not in told.out
    plan.write_text(f"{mine}responses: {{responders: {{one: {{model: mine}}, two: {{model: big}}}}}}\n")
    assert main([*command, str(tmp_path / "b")]) == 0
    told = capsys.readouterr()
    assert "requests to big" in told.out and "left to this process" in told.out and told.out.strip().endswith(": one")


def test_a_server_that_is_not_there_is_one_line(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("poise.llm.runner.FIRST_S", 1.0)
    plan.write_text(PLAN.format(url="http://127.0.0.1:9/v1"))
    assert main(["collect", "prompts", str(plan), "--out", str(tmp_path / "out")]) == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no reply at all: connection: can't connect" in error and "is the server up" in error


def test_a_budget_stops_and_a_larger_one_goes_on(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "prompts"
    assert main(["collect", "prompts", str(plan), "--out", str(out), "--budget-requests", "2"]) == 4
    assert not out.exists()
    assert main(["collect", "prompts", str(plan), "--out", str(out)]) == 0


def test_a_folder_with_new_weights_is_asked_again(
    tiny_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my-sft"
    shutil.copytree(tiny_lm, folder)
    prompts, plan = tmp_path / "prompts", tmp_path / "plan.yaml"
    with TableWriter(prompts, {"name": "told"}) as writer:
        writer.add(PromptRecord(prompt="How do I bake bread?", source_id="p1"))
    responders = "responses: {responders: {mine: {model: mine, hotter: 1, max_new_tokens: 4}}, keep: 1, pairs: 0}\n"
    plan.write_text(f"name: local\nmodels: {{mine: {{model: {folder}}}}}\n{responders}")
    command = ["collect", "responses", str(plan), str(prompts), "--out", str(tmp_path / "a")]
    main(command)  # whether such answers are worth keeping does not matter: they are stored
    capsys.readouterr()
    for change, stored in (("", 2), (" ", 0)):
        (folder / "config.json").write_text((folder / "config.json").read_text() + change)
        assert main([*command, "--dry-run"]) == 0
        assert f"2 requests, {stored} of them answered before" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["prompts-grid", "responses-llama-family"])
def test_the_recipes_are_plans(name: str) -> None:
    head, sections = read_plan(RECIPES / f"{name}.yaml", None)
    assert head.name == name and sections


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("model: big, hotter", "model: small, hotter"), "no model 'small' under models"),
        (("quota: 4", "quotta: 4"), "did you mean 'quota'"),
        (("quota: 4", "quota: many"), "got 'many'"),
        (("share: 0.25", "share: 0.5"), "do not sum to 1"),
    ],
)
def test_a_wrong_plan_says_where(plan: Path, change: tuple[str, str], message: str) -> None:
    plan.write_text(plan.read_text().replace(*change))
    with pytest.raises(PoiseError, match=message):
        read_plan(plan, None)


def test_wrong_input_is_one_line(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "responses", str(plan), str(tmp_path), "--out", str(tmp_path / "a")]) == 2
    assert main(["llm", "replies", str(tmp_path / "none")]) == 2
    plan.write_text(plan.read_text().split("responses:")[0])
    (tmp_path / "p").mkdir()
    assert main(["collect", "responses", str(plan), str(tmp_path / "p"), "--out", str(tmp_path / "a")]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 3 and "has no section 'responses'" in errors[-1]
