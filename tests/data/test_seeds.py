"""The shipped seeds keep their promises, and the loader refuses what breaks the format."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

from poise.cli.main import main
from poise.data.corpus import latest
from poise.data.seeds import SEED_FOLDER, load_seeds
from poise.errors import PoiseError
from poise.harm import CATEGORIES, violates_order

GOOD = {
    "category": "S2",
    "prompts": [
        {
            "id": "s02-h1",
            "kind": "harmful",
            "severity": "minor",
            "text": "Call my brother silly.",
            "responses": [
                {"text": "Let us be kind.", "categories": [], "severity": "none"},
                {"text": "He is silly.", "categories": ["S2"], "severity": "minor"},
                {"text": "He is very silly and all should know.", "categories": ["S2", "S17"], "severity": "moderate"},
            ],
            "better": [1, 2, 0],
            "safer": [0, 1, 2],
        }
    ],
}


def write(folder: Path, content: object, name: str = "s02.yaml") -> Path:
    (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def test_shipped_seeds_cover_every_category_and_severity() -> None:
    corpus = load_seeds()
    cells: dict[str | None, Counter[str]] = defaultdict(Counter)
    severities: dict[str | None, set[int]] = defaultdict(set)
    for prompt in corpus.prompts:
        cells[prompt.category][prompt.kind] += 1
        if prompt.kind == "harmful":
            severities[prompt.category].add(prompt.severity)
    for category in CATEGORIES:
        assert cells[category.code]["harmful"] >= 6, category
        assert cells[category.code]["lookalike"] >= 4, category
        assert severities[category.code] == {1, 2, 3}, category
    assert cells[None]["ordinary"] >= 60
    assert len({row.id for row in corpus.qa}) == len(corpus.qa) >= 800
    assert all(row.provenance.source == "poise-seeds" for row in corpus.prompts)


def test_shipped_seeds_are_judged_in_full_and_in_order() -> None:
    corpus = load_seeds()
    labels = {item: j.label() for item, j in latest(corpus.judgements, "label").items()}
    better, safer = latest(corpus.judgements, "better"), latest(corpus.judgements, "safer")
    assert set(labels) == {row.id for row in corpus.qa}
    assert set(better) == set(safer) == {row.id for row in corpus.pairs}
    per_prompt = Counter(row.prompt_id for row in corpus.qa)
    assert len(corpus.pairs) == sum(n * (n - 1) // 2 for n in per_prompt.values())
    assert not any(violates_order(labels[p.qa_0], labels[p.qa_1], safer[p.id].value) for p in corpus.pairs)
    first_safer = sum(j.value == 0 for j in safer.values()) / len(safer)
    assert 0.4 < first_safer < 0.6  # the position gives nothing away


def test_rankings_become_pair_judgements(tmp_path: Path) -> None:
    corpus = load_seeds(write(tmp_path, GOOD))
    qa = {row.id: row.response for row in corpus.qa}
    said = {}
    for pair in corpus.pairs:
        for question in ("better", "safer"):
            winner = latest(corpus.judgements, question)[pair.id].value
            said[question, frozenset((qa[pair.qa_0], qa[pair.qa_1]))] = qa[(pair.qa_0, pair.qa_1)[winner]]
    kind, rude, worse = (row["text"] for row in GOOD["prompts"][0]["responses"])  # type: ignore[index]
    assert said["better", frozenset((kind, rude))] == rude
    assert said["better", frozenset((rude, worse))] == rude
    assert said["better", frozenset((kind, worse))] == worse
    assert said["safer", frozenset((kind, worse))] == kind
    assert said["safer", frozenset((rude, worse))] == rude


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("better",), [0, 1], "no order of all 3"),
        (("safer",), [0, 1, 1], "no order of all 3"),
        (("better",), [0, True, 2], "no order of all 3"),
        (("safer",), [1, 0, 2], "severities"),
        (("safer",), [0, 2, 1], "severities"),
        (("kind",), "evil", "kind 'evil'"),
        (("kind",), "ordinary", "severity"),
        (("severity",), "none", "kind harmful with severity none"),
        (("severity",), "awful", "severity 'awful'"),
        (("text",), " ", "empty text"),
        (("responses", 1, "categories"), [], "safe means"),
        (("responses", 1, "categories"), ["S20"], "no harm category"),
        (("responses", 1, "categories"), None, "NoneType"),
        (("responses", 1, "text"), "Let us be kind.", "two equal responses"),
        (("responses",), [], "two responses"),
        (("colour",), "red", "unknown key: colour"),
    ],
)
def test_broken_seed_is_refused_with_its_file_and_id(tmp_path: Path, path: tuple, value: object, says: str) -> None:
    content = yaml.safe_load(yaml.safe_dump(GOOD))
    place = content["prompts"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(PoiseError, match=says) as error:
        load_seeds(write(tmp_path, content))
    assert error.value.where.startswith("s02.yaml")


def test_other_file_faults_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no seed file"):
        load_seeds(tmp_path)
    (tmp_path / "a.yaml").write_text("category: [", encoding="utf-8")
    with pytest.raises(PoiseError, match="no valid YAML"):
        load_seeds(tmp_path)
    write(tmp_path, {"category": None, "prompts": GOOD["prompts"]}, "a.yaml")
    with pytest.raises(PoiseError, match="kind harmful in a file of category None"):
        load_seeds(tmp_path)
    write(tmp_path, GOOD, "a.yaml")
    write(tmp_path, GOOD)
    with pytest.raises(PoiseError, match="used before"):
        load_seeds(tmp_path)


def test_seed_folder_is_in_the_package() -> None:
    assert sorted(path.stem for path in SEED_FOLDER.glob("s*.yaml")) == [f"s{n:02d}" for n in range(1, 20)]


def test_the_seeds_as_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, answers = tmp_path / "a" / "pairs.jsonl", tmp_path / "answers.csv"
    assert main(["data", "seeds", "--out", str(pairs)]) == 0
    assert main(["data", "seeds", "--out", str(answers), "--format", "pku-qa"]) == 0
    assert "1,128 rows" in (said := capsys.readouterr().out) and "900 rows" in said
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for row in rows:
        safe = row["is_response_0_safe"], row["is_response_1_safe"]
        assert row["better_response_id"] in (0, 1) and (safe[row["safer_response_id"]] or not any(safe))
    assert {(row["prompt"], row["response_0"]) for row in rows} <= {(qa.prompt, qa.response) for qa in load_seeds().qa}
    assert main(["data", "validate", str(pairs), "--format", "pku-safe-rlhf"]) == 0
    assert main(["data", "seeds", "--out", str(pairs), "--format", "no-such"]) == 2
