"""Training a guard: what rows teach, the loss, calibration, windows, and the whole way from sets to a folder."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.cli.guard import read_guard_plan
from poise.cli.main import main
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, PromptRecord, QARecord
from poise.data.tables import TableWriter, open_tables
from poise.errors import PoiseError
from poise.guard.calibration import Calibration
from poise.guard.fast.network import write_network
from poise.guard.fit.apply import TrainedGuard
from poise.guard.fit.calibration import calibrate, threshold_at, thresholds
from poise.guard.fit.loss import GuardTargets, binary, guard_loss
from poise.guard.fit.measure import category_table, set_table, severity_table
from poise.guard.fit.model import GuardLogits, GuardModel
from poise.guard.fit.plan import DataPlan, ModelPlan, SetUse, TrainingPlan
from poise.guard.fit.rows import Row, rows_of
from poise.guard.fit.run import Plan, Watch, train_guard
from poise.guard.fit.training import fit, targets_of
from poise.guard.windows import slices
from poise.harm import CATEGORIES

NAN = math.nan
RECIPES = Path(__file__).parents[3] / "recipes"
S6 = CATEGORIES[5].value
NO = (0.0,) * 19


def row(at_least: tuple[float, float, float] = (1.0, NAN, NAN), **changes: Any) -> Row:
    return Row("p", "r", "s", "train", (NAN,) * 19, at_least, NAN)._replace(**changes)


def test_rows_teach_what_their_source_knows(tmp_path: Path) -> None:
    graded = PartialLabel(safe=False, categories=(S6,), severity=2)
    records = [
        QARecord(prompt="a", response="graded", label=graded, dataset="x", split="train"),
        QARecord(prompt="b", response="unsafe only", label=PartialLabel(safe=False), dataset="x", split="train"),
        QARecord(prompt="c", response="safe", label=PartialLabel(safe=True), dataset="x", split="test"),
        QARecord(prompt="d", response="nothing known", dataset="x", split="train"),
        QARecord(prompt="e", response="of another set", label=graded, dataset="y", split="train"),
        DualRecord(
            prompt="f", responses=("one", "two"), labels=(PartialLabel(safe=True), graded), dataset="x", split="train"
        ),
        PromptRecord(prompt="g", label=PartialLabel(safe=False), dataset="x", split="train"),
    ]
    voted = records[1]
    assert isinstance(voted, QARecord)
    for rater, safe in (("r1", True), ("r2", False), ("r3", False), ("r4", False)):
        records.append(JudgementRecord(item=voted.item, question="safe", value=safe, rater=rater, responses=("h",)))
    records.append(JudgementRecord(item=voted.item, question="refusal", value=True, rater="r1", responses=("h",)))
    with TableWriter(tmp_path / "t", {"name": "t"}) as writer:
        for record in records:
            writer.add(record)
    plan = DataPlan(sets={"x": SetUse(weight=2.0)}, calibration_share=1e-9)
    found = {(r.prompt, r.response): r for r in rows_of(open_tables(tmp_path / "t"), plan, 0)}
    assert set(found) == {("a", "graded"), ("b", "unsafe only"), ("c", "safe"), ("f", "one"), ("f", "two"), ("g", None)}
    assert found["a", "graded"].at_least == (1.0, 1.0, 0.0)
    assert [k for k, value in enumerate(found["a", "graded"].categories) if value] == [5]
    assert found["b", "unsafe only"].at_least[0] == 0.75 and math.isnan(found["b", "unsafe only"].at_least[1])
    assert found["b", "unsafe only"].refusal == 1.0 and found["b", "unsafe only"].unsafe is True
    assert found["c", "safe"].categories == NO and found["c", "safe"].part == "test"
    assert found["f", "one"].unsafe is False and found["f", "two"].unsafe is True
    assert math.isnan(found["g", None].categories[0]) and found["g", None].weight == 2.0
    both = [
        QARecord(
            prompt="Where does the long river go?", response=r, label=PartialLabel(safe=True), dataset=d, split="train"
        )
        for d, r in (("x", "one"), ("y", "two"))
    ]
    with TableWriter(tmp_path / "u", {"name": "u"}) as writer:
        for record in both:
            writer.add(record)
    whole = DataPlan(sets={"x": SetUse(), "y": SetUse(use="test")}, calibration_share=1e-9)
    assert [r.source for r in rows_of(open_tables(tmp_path / "u"), whole, 0)] == ["y"]  # x knows a prompt of y
    held = DataPlan(sets={"x": SetUse(use="test")})
    assert {r.part for r in rows_of(open_tables(tmp_path / "t"), held, 0)} == {"test"}
    few = DataPlan(sets={"x": SetUse(rows=2)}, calibration_share=1e-9)
    thin = rows_of(open_tables(tmp_path / "t"), few, 0)
    assert sum(r.part == "train" for r in thin) == 2 and sum(r.part == "test" for r in thin) == 1


def test_people_vote_by_their_latest_round_and_models_do_not(tmp_path: Path) -> None:
    """Of three people two changed to safe: 1 of 3 says unsafe, which no P(severity >= 2, 3) may exceed."""
    graded = PartialLabel(safe=False, categories=(S6,), severity=2)
    alone, voted, level = (
        QARecord(prompt=prompt, response="r", label=label, dataset="x", split="train")
        for prompt, label in (("By hand", graded), ("Of three people", graded), ("No level", PartialLabel(safe=False)))
    )
    with TableWriter(tmp_path / "t", {"name": "t"}) as writer:
        for record in (alone, voted, level):
            writer.add(record)
            asked = {"item": record.item, "responses": (record.item,), "value": True}
            for question, rater, kind in (("safe", "m1", "model"), ("safe", "m2", "model"), ("refusal", "m1", "model")):
                writer.add(
                    JudgementRecord.model_validate(asked | {"question": question, "rater": rater, "rater_kind": kind})
                )
            votes = (("p1", False, 0), ("p2", True, 1), ("p2", False, 0), ("p3", False, 0), ("p3", True, 1))
            for rater, safe, round_ in () if record is alone else votes:
                told = {"question": "safe", "rater": rater, "rater_kind": "person", "value": safe, "round": round_}
                writer.add(JudgementRecord.model_validate(asked | told))
    plan = DataPlan(sets={"x": SetUse()}, calibration_share=1e-9)
    found = {r.prompt: r for r in rows_of(open_tables(tmp_path / "t"), plan, 0)}
    assert found["By hand"].at_least == (1.0, 1.0, 0.0) and math.isnan(found["By hand"].refusal)
    assert found["Of three people"].at_least == (1 / 3, 1 / 3, 0.0)
    assert found["No level"].at_least[0] == 1 / 3 and all(map(math.isnan, found["No level"].at_least[1:]))


def test_the_asymmetric_loss_by_hand() -> None:
    """At logit 0, p = 1/2: a presence costs log 2; an absence p^focus log 2, which is log 2 / 4 for focus 2."""
    logits, target = torch.zeros(3), torch.tensor([1.0, 0.0, NAN])
    assert binary(logits, target).tolist() == pytest.approx([math.log(2), math.log(2), 0.0])
    assert binary(logits, target, 2.0).tolist() == pytest.approx([math.log(2), math.log(2) / 4, 0.0])
    assert float(binary(torch.zeros(1), torch.tensor([0.25]))[0]) == pytest.approx(math.log(2))


def test_the_loss_weighs_rows_and_ignores_the_unknown() -> None:
    """Row 0 (weight 3) costs log 2 at its known threshold, row 1 (weight 1) log(1 + e) - 1 at logit 1: their mean."""
    logits = GuardLogits(torch.zeros(2, 19, requires_grad=True), torch.tensor([[0.0] * 3, [1.0] * 3]), torch.zeros(2))
    told = [row((1.0, NAN, NAN), weight=3.0), row((1.0, 1.0, 1.0))]
    targets = targets_of(told, torch.device("cpu"))
    loss = guard_loss(logits, targets, category_weight=1.0, refusal_weight=1.0, focus=0.0, smoothing=0.0)
    assert float(loss.detach()) == pytest.approx((3 * math.log(2) + math.log(1 + math.e) - 1) / 4)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.categories.grad is not None and float(logits.categories.grad.abs().sum()) == 0.0


@settings(max_examples=30)
@given(st.integers(0, 700), st.integers(1, 90))
def test_slices_cover_everything(length: int, size: int) -> None:
    ids = list(range(length))
    found = slices(ids, size)
    assert all(len(part) <= size for part in found) and {i for part in found for i in part} == set(ids)


@pytest.fixture
def model(tiny_encoder: Path) -> GuardModel:
    return GuardModel(tiny_encoder, max_length=32)


def test_a_trunk_that_cannot_work_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="reads 160 tokens at most, and max_length is 161"):
        GuardModel(tiny_encoder, max_length=161)
    folder = shutil.copytree(tiny_encoder, tmp_path / "unmarked")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"sep_token": None}))
    with pytest.raises(PoiseError, match="its tokenizer has no sep token"):
        GuardModel(folder, max_length=32)


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_trunks_without_kinds_of_tokens(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    """RoBERTa has one kind, DistilBERT none; RoBERTa's 66 positions begin after its padding, token 0: 65 are left."""
    from transformers import AutoConfig, AutoModel

    size = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "vocab_size": 600, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, max_position_embeddings=66, intermediate_size=16, hidden_dim=16, **size)
    if kind == "roberta":
        config.type_vocab_size = 1
    folder = shutil.copytree(tiny_encoder, tmp_path / kind)
    AutoModel.from_config(config).save_pretrained(folder)
    most = 65 if kind == "roberta" else 66
    with pytest.raises(PoiseError, match=f"reads {most} tokens at most"):
        GuardModel(folder, max_length=most + 1)
    guard = GuardModel(folder, max_length=most)
    assert bool(guard.logits([("bread " * 300, "knife"), ("p", None)]).at_least.isfinite().all())
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    write_network(guard, tmp_path / "n.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["input_ids", "attention_mask"]


def test_a_long_text_is_read_in_windows_and_the_worst_counts(model: GuardModel) -> None:
    long = "the river runs " * 60
    for text in (("p", long), (long, "r"), (long, None), (long, long), ("", ""), ("p", None)):
        prompt, response = (model._ids(part or "") for part in text)
        windows = model.windows(text)
        assert all(len(head) + len(tail) + 3 <= 32 for head, tail in windows)
        assert {tuple(head[i : i + 1]) for head, _ in windows for i in range(len(head))} == {(i,) for i in prompt}
        assert sum(len(tail) for _, tail in windows) >= len(response)
    one = model.logits([("p", long), ("p", "short")])
    alone = [model([window]) for window in model.windows(("p", long))]
    highest = torch.stack([logits.at_least[0] for logits in alone]).amax(0)
    assert torch.allclose(one.at_least[0], highest.detach().float(), atol=1e-3)
    assert (one.at_least.diff(dim=1) <= 1e-6).all()


def test_saved_and_loaded_again_it_says_the_same(model: GuardModel, tmp_path: Path) -> None:
    texts = [("p", "one"), ("q", None), ("p", "another answer " * 30)]
    before = model.logits(texts)
    tmp_path.joinpath("g").mkdir()
    model.save(tmp_path / "g", {"encoder": "x"})
    loaded, told = GuardModel.load(tmp_path / "g")
    for a, b in zip(before, loaded.logits(texts), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert told["encoder"] == "x"
    with pytest.raises(PoiseError, match="holds no guard"):
        GuardModel.load(tmp_path)
    weights = tmp_path / "g" / "heads.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])  # a copy that was cut short
    with pytest.raises(PoiseError, match="holds no guard"):
        GuardModel.load(tmp_path / "g")


def test_rows_that_logits_part_wholly_make_nothing_certain() -> None:
    """25 safe rows below 0 and 25 unsafe ones above: Platt's targets are 1/27 and 26/27. At the best scale the sum of
    x (p - t) is 0, so by symmetry the mean of p above 0, weighted by x, is 26/27."""
    logits = torch.linspace(-3, 3, 50)
    found = GuardLogits(torch.zeros(50, 19), logits[:, None].repeat(1, 3), torch.zeros(50))
    told = torch.stack([(logits > 0).float(), *[torch.full((50,), NAN)] * 2], 1)
    targets = GuardTargets(torch.full((50, 19), NAN), told, torch.full((50,), NAN), torch.ones(50))
    p = torch.sigmoid(torch.from_numpy(calibrate(found, targets).apply(found).at_least[:, 0]))
    assert float((p * logits)[25:].sum() / logits[25:].sum()) == pytest.approx(26 / 27, abs=1e-3)


def test_calibration_recovers_a_known_scale_and_keeps_the_order() -> None:
    chance = np.random.default_rng(0)
    true = torch.tensor(chance.normal(0, 2, 6000), dtype=torch.float32)
    unsafe = (torch.rand(6000, generator=torch.Generator().manual_seed(0)) < torch.sigmoid(true)).float()
    at_least = torch.stack([unsafe, unsafe * NAN, unsafe * NAN], 1)
    given_logits = GuardLogits(torch.zeros(6000, 19), torch.stack([2 * true + 1, 2 * true, 2 * true - 1], 1), true)
    targets = GuardTargets(torch.full((6000, 19), NAN), at_least, torch.full((6000,), NAN), torch.ones(6000))
    found = calibrate(given_logits, targets)
    assert found.severity[0] == pytest.approx(0.5, abs=0.05) and found.severity[1][0] == pytest.approx(-0.5, abs=0.1)
    assert found.categories == ((1.0, 0.0),) * 19 and found.refusal == (1.0, 0.0)  # nothing known of them
    applied = found.apply(given_logits)
    assert (np.diff(applied.at_least, axis=1) <= 0).all()
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_thresholds_keep_the_stated_false_positive_rate() -> None:
    score = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.8])
    positive = np.array([False, False, False, False, True, True])
    limit = threshold_at(score, positive, 0.25)  # one of four may pass: just above 0.3
    assert limit is not None and 0.3 < limit < 0.3001
    assert threshold_at(score, np.ones(6, dtype=bool), 0.1) is None
    chance = np.random.default_rng(1)
    many, told = chance.random(2000), (chance.random(2000) < 0.3).astype(float)
    (limit,) = thresholds([many], [told], 0.05)
    assert (many[told == 0] >= limit).mean() <= 0.05
    assert thresholds([many[:30]], [told[:30]], 0.05) == [0.5]  # too few


def test_tables_of_what_it_can_do() -> None:
    rows = [
        row((1.0, 1.0, 1.0), categories=(1.0, *NO[1:])),
        row((0.0, 0.0, 0.0), categories=NO),
        row((1.0, 0.0, 0.0), categories=(1.0, *NO[1:])),
        row((NAN,) * 3),
        row((0.5, NAN, NAN)),
        row((1.0, NAN, NAN), response=None),
    ]
    table = set_table(rows, np.array([0.9, 0.1, 0.2, 0.5, 0.5, 0.7]), 0.5)
    assert [(e["kind"], e["n"], e["unsafe"]) for e in table] == [("answers", 3, 2), ("prompts", 1, 1)]
    assert table[0]["auroc"] == 1.0 and table[0]["recall"] == 0.5 and table[1]["f1"] == 1.0
    strict = set_table(rows, np.array([0.9, 0.1, 0.2, 0.5, 0.5, 0.7]), 0.95)
    assert strict[0]["recall"] == 0.0 and strict[0]["even_odds"] == table[0]["even_odds"]
    assert strict[0]["even_odds"] == {"f1": pytest.approx(2 / 3), "recall": 0.5, "fpr": 0.0}
    severity = severity_table(rows, rows, np.array([0, 0, 1, 0, 0, 0]))
    assert severity is not None and severity["levels"] == [1, 1, 0, 1]
    assert severity["guard"]["severe_called_none"] == 1 and severity["guard"]["recall_severe"] == 0.0
    assert severity_table([row()], rows, np.array([0])) is None
    assert category_table(rows, np.zeros((6, 19))) == []  # too few of each


def test_fit_learns_and_goes_on_after_a_stop(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poise.guard.fit.training.CHECKPOINT_EVERY", 3)
    rows = [
        row((float(i % 2),) * 3, prompt=f"question {i}", response="bad bad bad" if i % 2 else "good good good")
        for i in range(48)
    ]
    plan = TrainingPlan(epochs=8, batch_size=8, learning_rate=3e-3, head_learning_rate=1e-2, averaged=0.9)
    whole = GuardModel(tiny_encoder, max_length=32, seed=3)
    losses = fit(whole, rows, plan, 0)
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])

    class StoppedError(Exception):
        pass

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 7:
            raise StoppedError

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(StoppedError):
        fit(GuardModel(tiny_encoder, max_length=32, seed=3), rows, plan, 0, checkpoint=path, on_step=stop)
    resumed = GuardModel(tiny_encoder, max_length=32, seed=3)
    assert fit(resumed, rows, plan, 0, checkpoint=path) == pytest.approx(losses, rel=1e-4)
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):  # the mean goes on as well
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-5)
    with pytest.raises(PoiseError, match="no row"):
        fit(resumed, [], plan, 0)


def test_the_mean_of_the_last_steps(tiny_encoder: Path) -> None:
    rows = [row((float(i % 2),) * 3, prompt=f"question {i}") for i in range(24)]
    kept: list[torch.Tensor] = []

    def trained(averaged: float) -> torch.Tensor:
        guard = GuardModel(tiny_encoder, max_length=32, seed=3)
        kept.clear()
        plan = TrainingPlan(epochs=2, batch_size=4, averaged=averaged)
        fit(guard, rows, plan, 0, on_step=lambda *_: kept.append(guard.heads.severity.weight.detach().clone()))
        return guard.heads.severity.weight.detach()

    assert torch.equal(trained(0.0), kept[-1])
    assert torch.allclose(trained(0.5), torch.stack(kept[6:]).mean(0), atol=1e-7)
    assert not torch.allclose(kept[-1], torch.stack(kept[6:]).mean(0), atol=1e-7)


def test_from_sets_to_a_guard(tiny_encoder: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "guard"
    (data / "mine").mkdir(parents=True)
    lines = [
        {
            "id": f"row-{i}",
            "prompt": f"question {i} of {'many' * (i % 5)}",
            "response": "bad bad" if i % 2 else "good good",
            "is_safe": i % 2 == 0,
        }
        for i in range(200)
    ]
    (data / "mine" / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    plan = Plan(
        "tested",
        0,
        DataPlan(sets={"seeds": SetUse(rows=100), "mine": SetUse(format="saferlhf_qa4k")}, calibration_share=0.3),
        ModelPlan(encoder=str(tiny_encoder), max_length=32),
        TrainingPlan(epochs=1, batch_size=32),
    )
    notes: list[str] = []
    judged: list[tuple[int, int]] = []
    watch = Watch(note=notes.append, judged=lambda done, total: judged.append((done, total)))
    measured = train_guard(plan, data, out, watch)
    assert (sum(done == total for done, total in judged), judged[-1][0]) == (2, measured["rows"]["test"])
    assert {entry["set"] for entry in measured["sets"]} == {"mine", "seeds"}
    assert measured["rows"]["train"] and measured["rows"]["calibration"] and measured["rows"]["test"]
    assert measured["severity"]["guard"] and "tfidf_auroc" in measured["sets"][0]
    assert json.loads((out / "metrics.json").read_text())["threshold"] == measured["threshold"]
    card = (out / "README.md").read_text()
    assert card.startswith("---\npipeline_tag: text-classification\n") and "\n# tested\n" in card
    assert (
        f"| `mine` | CC-BY-NC-4.0 | {measured['sources']['mine']} |" in card and f"{measured['threshold']:.3f}" in card
    )
    for entry in measured["sets"]:
        assert (
            f"| `{entry['set']}` | answers | {measured['sources'][entry['set']]} | {entry['n']} | {entry['auroc']:.3f}"
            in card
        )
    assert f"| guard | {measured['severity']['guard']['macro_f1']:.3f} |" in card
    assert not (tmp_path / ".guard.work").exists() and notes[0] == "reading seeds"
    _, told = GuardModel.load(out)
    assert len(told["thresholds"]["categories"]) == 19 and told["plan"]["name"] == "tested"
    with pytest.raises(PoiseError, match="already exists"):
        train_guard(plan, data, out)
    assert main(["data", "read", str(data / "mine"), "--format", "saferlhf_qa4k", "--out", str(tmp_path / "t")]) == 0
    assert main(["guard", "evaluate", str(out), str(tmp_path / "t"), "--out", str(tmp_path / "m.json")]) == 0
    told = json.loads((tmp_path / "m.json").read_text())
    assert [entry["n"] for entry in told["sets"]] == [200] and told["threshold"] == measured["threshold"]
    guard = TrainedGuard(out)
    verdicts = guard.judge(
        [("question 3 of many", "bad bad"), ("p", None), ("p", " "), ("", "r"), ("\u200b\x00", None)]
    )
    assert [v.unsafe is None for v in verdicts] == [False, False, True, True, True]
    assert {v.reason for v in verdicts[2:]} == {"empty"}
    assert (verdicts[0].unsafe is True) == ((verdicts[0].probability or 0) >= guard.threshold)
    assert bool(verdicts[0].categories) == bool(verdicts[0].unsafe) == bool(verdicts[0].severity)
    words = ["guard", "label", str(out), str(tmp_path / "t"), "--out", str(tmp_path / "l")]
    assert main(words) == 0 and main(words) == 2
    labels = [r for r in open_tables(tmp_path / "l")["judgements"].records() if isinstance(r, JudgementRecord)]
    assert sum(r.rater == "tested" and r.question == "label" for r in labels) == 200
    assert all(
        r.value["safe"] == (r.value["severity"] == 0) == (not r.value["categories"])
        for r in labels
        if r.rater == "tested"
    )
    again = ["guard", "label", str(out), str(tmp_path / "l"), "--out", str(tmp_path / "l2")]
    assert main(again) == 0 and open_tables(tmp_path / "l2").rows == open_tables(tmp_path / "l").rows
    judged = guard.probabilities([("p", "r"), ("p", None)])
    assert judged.severity.shape == (2, 4) and np.allclose(judged.severity.sum(1), 1)
    assert np.allclose(judged.unsafe, 1 - judged.severity[:, 0], atol=1e-6)
    with pytest.raises(PoiseError, match="absent"):
        train_guard(plan, tmp_path / "absent", tmp_path / "other")
    with pytest.raises(PoiseError, match="another plan"):
        train_guard(plan._replace(seed=1), tmp_path / "absent", tmp_path / "other")


@pytest.mark.parametrize(
    ("share", "part"), [({"test_share": 1e-6}, "test"), ({"calibration_share": 1e-9}, "calibration")]
)
def test_a_part_without_rows_is_told_before_the_model_is_loaded(tmp_path: Path, share: Any, part: str) -> None:
    (tmp_path / "mine").mkdir()
    lines = [{"id": f"row-{i}", "prompt": f"question {i}", "response": "r", "is_safe": i % 2 == 0} for i in range(40)]
    (tmp_path / "mine" / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = DataPlan(sets={"mine": SetUse(format="saferlhf_qa4k")}, **share)
    plan = Plan("tested", 0, data, ModelPlan(encoder=str(tmp_path / "no model")), TrainingPlan())
    with pytest.raises(PoiseError, match=f"no {part} rows"):
        train_guard(plan, tmp_path, tmp_path / "guard")


@pytest.mark.parametrize("name", ["guard-starter", "guard-pku"])
def test_the_recipes_are_plans(name: str) -> None:
    plan = read_guard_plan(RECIPES / f"{name}.yaml", None)
    assert plan.name == name and "seeds" in plan.data.sets
    if name == "guard-starter":  # what ships learns from no row under other terms
        learnt = {name for name, use in plan.data.sets.items() if use.use == "train"}
        assert not learnt & {
            "beavertails_test",
            "saferlhf_qa4k",
            "saferlhf_qa2k",
            "pku_saferlhf_pairs",
            "toxicchat_test",
        }
