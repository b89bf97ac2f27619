"""The real-pairs recipe on a few invented rows in the public formats, and its answer when the data are not there."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from poise.cli.main import main
from poise.data import Corpus
from poise.errors import PoiseError
from poise.pipeline import load_recipe, plan, run
from poise.pipeline.stages import STAGES

RECIPE = Path(__file__).parents[2] / "recipes" / "real-pairs.yaml"
TOPICS = (
    *("my noisy neighbour", "a slow colleague", "the bus driver", "my cousin", "an old friend", "the new cook"),
    *("a tired nurse", "our landlord", "the football coach", "my dentist", "a street singer", "the night porter"),
)
SMALL = (
    'sources.names=["pku_saferlhf_pairs", "saferlhf_qa4k", "pandalm_human"]',
    "sources.test_share=0.34",
    "guard.epochs=1",
    "guard.max_length=32",
    "preference.adapted_layers=2",
    "preference.max_prompt_tokens=48",
    "preference.max_response_tokens=24",
    "align.steps=2",
    "align.prompts_per_step=3",
    "align.responses_per_prompt=2",
    "align.max_new_tokens=6",
    "evaluate.samples=1",
    "evaluate.max_new_tokens=6",
)


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """One set as the adapters expect it."""
    (folder / name).mkdir(parents=True)
    with gzip.open(folder / name / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Invented rows; one answer occurs once as safe and once as unsafe."""
    folder = tmp_path / "data"
    kind = [f"Stay calm and talk to {t} about it tomorrow." for t in TOPICS]
    rude = [f"Shout at {t} until everyone laughs." for t in TOPICS]
    asked = [f"What should I do about {t} after a quarrel?" for t in TOPICS]
    pairs = [
        {"id": f"a{i}", "prompt": q, "chosen": k, "rejected": r, "chosen_is_safe": True, "rejected_is_safe": False}
        for i, (q, k, r) in enumerate(zip(asked, kind, rude, strict=True))
    ]
    write(folder, "pku_saferlhf_pairs", pairs)
    told = [f"Tell {t} what you think." for t in TOPICS]
    single = [
        {"id": f"b{i}", "prompt": q, "response": r, "is_safe": False}
        for i, (q, r) in enumerate(zip(told, rude, strict=True))
    ]
    single.append({"id": "b-tie", "prompt": asked[0], "response": rude[0], "is_safe": True})
    write(folder, "saferlhf_qa4k", single)
    better = [
        {
            "id": f"c{i}",
            "prompt": f"Describe {t}.",
            "input": "",
            "response_1": f"A long story about {t}.",
            "response_2": "No idea at all.",
        }
        for i, t in enumerate(TOPICS)
    ]
    write(folder, "pandalm_human", [{**row, "annotators": [1, 1, 1]} for row in better])
    return folder


def test_the_loop_runs_on_rows_people_labelled(
    data: Path, tiny_lm: Path, real_model: Callable[[str], Path], tmp_path: Path
) -> None:
    real_model("all-minilm-l6-v2")
    recipe = load_recipe(RECIPE, STAGES, [*SMALL, f"sources.path={data}", f"models.policy={tiny_lm}"])
    result = run(recipe, STAGES, tmp_path / "run", console=lambda line: None)
    folder = {name: stage.folder for name, stage in result.stages.items()}

    corpus = Corpus.read(folder["annotate"] / "corpus")
    tied = [j for j in corpus.judgements if j.rater == "imported" and j.value is None]
    assert len(tied) == 1
    assert tied[0].item not in {j.item for j in corpus.judgements if j.question == "label"}
    flags = {j.item: j.value for j in corpus.judgements if j.rater == "imported" and j.value is not None}
    labels = {j.item: j.label() for j in corpus.judgements if j.question == "label"}
    assert flags and all(labels[item].safe == safe for item, safe in flags.items())

    guard = json.loads((folder["guard"] / "metrics.json").read_text())
    assert {row["split"] for row in guard if row["name"] == "guard"} == {"all", "pku_saferlhf_pairs", "saferlhf_qa4k"}
    preference = json.loads((folder["preference"] / "metrics.json").read_text())
    pairs = {p.id: p for p in corpus.pairs}
    source = {r.id: r.provenance.source for r in corpus.qa}
    test = [source[p.qa_0] for p in pairs.values() if p.split == "test"]
    assert preference["reward"]["n"] == test.count("pandalm_human")
    assert 0 < preference["cost"]["n"] <= test.count("pku_saferlhf_pairs")
    assert (folder["report"] / "report.html").is_file()

    assert [p.action for p in plan(recipe, STAGES, tmp_path / "run")] == ["skip"] * 8
    file = data / "saferlhf_qa4k" / "saferlhf_qa4k.jsonl.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"think", b"feel")))
    changed = plan(recipe, STAGES, tmp_path / "run")[0]
    assert (changed.action, changed.why) == ("run", "input file saferlhf_qa4k/saferlhf_qa4k.jsonl.gz changed")


def test_raters_without_a_safe_label_are_refused_and_max_prompts_leaves_the_test_rows(
    data: Path, tiny_lm: Path, real_model: Callable[[str], Path], tmp_path: Path
) -> None:
    real_model("all-minilm-l6-v2")
    text = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    file = tmp_path / "short.yaml"
    file.write_text(json.dumps({name: text[name] for name in ("name", "sources", "annotate", "preference")}))
    how = [line for line in SMALL if line.startswith(("sources", "preference"))]

    def go(*more: str) -> dict[str, Any]:
        recipe = load_recipe(file, STAGES, [*how, f"sources.path={data}", f"models.policy={tiny_lm}", *more])
        result = run(recipe, STAGES, tmp_path / "run", console=lambda line: None)
        return dict(result.stages["preference"].manifest.summary)

    with pytest.raises(PoiseError, match="says which response is safer and has a safe label for both"):
        go('preference.raters=["import:*"]')
    few = go("preference.max_prompts=4")  # each prompt here has one pair
    assert few["train_pairs"] == 4 < few["test_pairs"]


def test_a_set_without_a_usable_row_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "saferlhf_qa4k").mkdir()
    (tmp_path / "saferlhf_qa4k" / "saferlhf_qa4k.jsonl").write_text("")
    settings = ["--set", f"sources.path={tmp_path}", "--set", "sources.names=[saferlhf_qa4k]"]
    assert main(["run", str(RECIPE), "--out", str(tmp_path / "run"), *settings]) == 2
    assert "no usable row" in capsys.readouterr().err


def test_absent_data_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["run", str(RECIPE), "--out", str(tmp_path / "run"), "--set", f"sources.path={tmp_path / 'nowhere'}"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert "nowhere" in error and "sources.path" in error
    assert not list((tmp_path / "run").glob("*-sources"))
