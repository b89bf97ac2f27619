"""The exported guard: what torch says, without torch; refusals to write; engines measured; opened by what it is."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.cli.main import main
from poise.data.records import PartialLabel, QARecord
from poise.data.tables import TableWriter
from poise.errors import PoiseError
from poise.guard.fast import bench, export, network
from poise.guard.fast.export import Check, compare, export_guard
from poise.guard.fast.guard import FastGuard, session
from poise.guard.fast.opening import open_guard
from poise.guard.fit.apply import TrainedGuard
from poise.guard.fit.calibration import Calibration
from poise.guard.fit.model import GuardModel
from poise.guard.windows import Logits, Marks, Text, Window, highest, padded
from poise.harm import CATEGORIES

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

LONG = "the river runs to the sea, and " * 40
TEXTS: list[tuple[str, str | None]] = [
    ("How do I bake bread?", None),
    ("Tell me.", "I can't help with that."),
    ("p", LONG),
    (LONG, "short"),
    (LONG, LONG),
    ("Zażółć \x00 gęślą ﷺ 東京 👩‍👩‍👧 [SEP] [CLS]", "naïve\t\u200bcafé"),
    ("", ""),
]


def settings_of() -> dict[str, Any]:
    calibration = Calibration(((1.5, 0.2),) * 19, (0.8, (0.1, 0.0, -0.3)), (1.2, -0.1)).to_json()
    limits = {"unsafe": 0.4, "categories": [0.5] * 19, "false_positive_rate": 0.05}
    return {"policy": "x", "calibration": calibration, "thresholds": limits, "plan": {"name": "tiny"}}


def saved(model: GuardModel, folder: Path, encoder: str) -> Path:
    import torch

    torch.nn.init.normal_(model.heads.severity.weight)
    folder.mkdir()
    model.save(folder, settings_of() | {"encoder": encoder})
    return folder


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(GuardModel(tiny_encoder, max_length=32), tmp_path_factory.mktemp("fast") / "guard", "x")


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    export_guard(trained, trained.with_name("onnx"), "onnx")
    return trained.with_name("onnx")


@pytest.fixture(scope="module")
def in_int8(trained: Path) -> Path:
    export_guard(trained, trained.with_name("int8"), "onnx-int8")
    return trained.with_name("int8")


def exact(folder: Path) -> TrainedGuard:
    import torch

    guard = TrainedGuard(folder)
    guard.model.run_in(torch.float32)
    return guard


def test_it_says_what_torch_says(trained: Path, exported: Path, in_int8: Path) -> None:
    torch_guard, fast, small = exact(trained), FastGuard(exported), FastGuard(in_int8)
    for text in TEXTS:
        assert fast.windows(text) == torch_guard.windows(text) == small.windows(text)
    truth = torch_guard.probabilities(TEXTS)
    for guard, apart in ((fast, 1e-5), (small, 0.15)):
        for ours, theirs in zip(guard.probabilities(TEXTS), truth, strict=True):
            assert np.abs(ours - theirs).max() <= apart
    for ours, theirs in zip(fast.judge(TEXTS), torch_guard.judge(TEXTS), strict=True):
        assert (ours.unsafe, ours.severities, ours.categories, ours.refusal, ours.reason) == (
            theirs.unsafe,
            theirs.severities,
            theirs.categories,
            theirs.refusal,
            theirs.reason,
        )
    assert fast.judge([]) == [] and fast.judge([("p", " ")])[0].reason == "empty"
    assert fast.judge([("\ud800 half a pair \udfff", "a \ud83d\ude00")])[0].unsafe is not None
    assert len({torch_guard.version, fast.version, small.version}) == 3


def test_a_verdict_does_not_depend_on_its_neighbours(exported: Path, in_int8: Path) -> None:
    for folder, apart in ((exported, 1e-5), (in_int8, 0.0)):
        guard = FastGuard(folder)
        together = guard.probabilities(TEXTS)
        alone = [guard.probabilities([text]) for text in TEXTS]
        assert np.abs(together.unsafe - np.concatenate([p.unsafe for p in alone])).max() <= apart


def test_what_the_folder_says_of_the_check(trained: Path, exported: Path, in_int8: Path) -> None:
    for folder, engine in ((exported, "onnx"), (in_int8, "onnx-int8")):
        told = json.loads((folder / "guard.json").read_text())
        assert told["engine"] == engine and told["trained_version"] == TrainedGuard(trained).version
        check = Check(**told["check"])
        assert check.passed and check.texts == 129 and check.limit == export.LIMITS[engine]  # type: ignore[index]
        assert check.max_probability > 0.0
        assert not list(folder.glob("*.bin")) and {path.name for path in folder.iterdir()} == {
            "guard.json",
            "model.onnx",
            "tokenizer.json",
        }
    assert (in_int8 / "model.onnx").stat().st_size < 0.75 * (exported / "model.onnx").stat().st_size


def test_adapters_are_folded(tiny_encoder: Path, tmp_path: Path) -> None:
    import torch

    model = GuardModel(tiny_encoder, max_length=32, lora_rank=2)
    with torch.no_grad():
        for name, weight in model.encoder.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    folder = saved(model, tmp_path / "lora", str(tiny_encoder))
    plain = saved(GuardModel(tiny_encoder, max_length=32), tmp_path / "plain", "x")
    truth = exact(folder).probabilities(TEXTS)
    assert np.abs(truth.categories - exact(plain).probabilities(TEXTS).categories).max() > 0.01
    for engine in ("onnx", "torch-fp32"):
        export_guard(folder, tmp_path / engine, engine)  # type: ignore[arg-type]
        assert np.abs(open_guard(tmp_path / engine).probabilities(TEXTS).categories - truth.categories).max() < 1e-5


def test_it_refuses_to_write_what_differs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export.LIMITS, "onnx-int8", 1e-7)
    with pytest.raises(PoiseError, match=r"moves a probability by up to .* nothing was written"):
        export_guard(trained, tmp_path / "int8", "onnx-int8")
    monkeypatch.setattr(export, "LEAST_COSINE", 1.1)
    with pytest.raises(PoiseError, match="least cosine"):
        export_guard(trained, tmp_path / "torch", "torch-bf16")
    assert list(tmp_path.iterdir()) == []


def test_compare_by_hand(exported: Path) -> None:
    """Logits (0 everywhere but one category, 1) against (1, 0): cosine 0; P moves most where the scale 1.5 acts."""
    one = np.zeros((1, 19), dtype=np.float32)
    two = one.copy()
    one[0, 0], two[0, 1] = 1.0, 1.0
    rest = np.zeros((1, 3), dtype=np.float32), np.zeros(1, dtype=np.float32)
    guard = FastGuard(exported)
    check = compare(Logits(one, *rest), Logits(two, *rest), guard, 0.5)
    low, high = 1 / (1 + np.exp(-0.2)), 1 / (1 + np.exp(-1.7))
    assert check.cosine == 0.0 and check.max_probability == pytest.approx(high - low, abs=1e-6)
    assert check.mean_unsafe == 0.0 and not check.passed
    assert compare(Logits(one, *rest), Logits(one, *rest), guard, 0.5).passed


def test_it_needs_no_torch(exported: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from poise.guard.fast.opening import open_guard
guard = open_guard(Path({str(exported)!r}))
verdicts = guard.judge([("How do I bake bread?", "Mix flour and water."), ("p", None)])
assert all(v.unsafe is not None for v in verdicts)
loaded = [name for name in ("torch", "transformers", "peft", "matplotlib", "pyarrow") if name in sys.modules]
assert not loaded, loaded
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "fine", done.stderr


def test_it_is_checked_when_opened(exported: Path, tmp_path: Path) -> None:
    """A processor that computes something else is one whose numbers are not those that were noted."""
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    told = json.loads((other / "guard.json").read_text())
    told["noted"][0]["unsafe"] += 0.2
    (other / "guard.json").write_text(json.dumps(told))
    with pytest.raises(PoiseError, match=r"up to 0\.2.* away from what was noted"):
        FastGuard(other)
    FastGuard(other, verify=False)


def test_folders_that_hold_none(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="holds no guard"):
        open_guard(tmp_path)
    for broken in ("model.onnx", "tokenizer.json"):
        folder = tmp_path / broken
        shutil.copytree(exported, folder)
        (folder / broken).unlink()
        with pytest.raises(PoiseError, match="holds no exported guard"):
            open_guard(folder)
    (tmp_path / "model.onnx" / "model.onnx").write_bytes(b"no network")
    with pytest.raises(PoiseError, match="can't be loaded"):
        open_guard(tmp_path / "model.onnx")
    (tmp_path / "guard.json").write_text("[]")
    with pytest.raises(PoiseError, match="holds no guard"):
        open_guard(tmp_path)


def taking(seconds: float) -> Callable[[Sequence[Text]], None]:
    """A judge that takes so long for each text."""
    return lambda texts: time.sleep(seconds * len(texts))


def test_engines_are_measured_in_turn() -> None:
    texts = {(128, 1): [("a", None)], (128, 4): [("a", None)] * 4}
    calls: list[int] = []
    judges = {"slow": taking(0.02), "quick": taking(0.005)}
    table = bench.measure_engines(judges, texts, rounds=6, on_call=lambda: calls.append(1))
    assert len(calls) == 2 * (6 + 6) and bench.best(table) == {(128, 1): "quick", (128, 4): "quick"}
    slow = next(row for row in table if row.engine == "slow" and row.batch == 4)
    assert 80 <= slow.least <= slow.p50 <= slow.p95 and slow.rows_s == pytest.approx(4000 / slow.p50)
    told = bench.record(table, 1)
    assert told["best"]["128 tokens, batch 1"] == "quick" and len(told["timings"]) == 4 and told["processor"]
    assert sum(line.endswith("*") for line in bench.lines(table)) == 2


def test_texts_have_exactly_so_many_tokens(exported: Path) -> None:
    guard = FastGuard(exported)
    texts = bench.texts_of(24, 3, lambda text: len(guard.ids(text)))
    assert [len(guard.ids(p)) + len(guard.ids(r or "")) + 3 for p, r in texts] == [24] * 3 and len(set(texts)) > 1
    with pytest.raises(PoiseError, match="no word"):
        bench.texts_of(24, 1, lambda text: 2)


def test_the_commands(trained: Path, in_int8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fast"
    assert main(["guard", "export", str(trained), str(out), "--int8"]) == 0
    assert "onnx-int8: " in capsys.readouterr().out and isinstance(open_guard(out), FastGuard)
    assert main(["guard", "export", str(trained), str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["guard", "export", str(trained), str(tmp_path / "x"), "--int8", "--engine", "torch"]) == 2
    assert "contradicts" in capsys.readouterr().err
    assert main(["guard", "export", str(in_int8), str(tmp_path / "x")]) == 2
    assert "already exported" in capsys.readouterr().err
    assert main(["guard", "export", str(trained), str(tmp_path / "b"), "--engine", "torch-bf16"]) == 0
    assert isinstance(open_guard(tmp_path / "b"), TrainedGuard)


def test_the_best_engine_is_taken(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "TOKENS", (24, 128))
    monkeypatch.setattr(bench, "BATCHES", (1, 2))
    for dtype in (torch.float32, torch.bfloat16):  # of a processor without bfloat16, and of one that has it
        monkeypatch.setattr("poise.models.precision.frozen_dtype", lambda device, dtype=dtype: dtype)
        assert main(["guard", "bench", str(trained), "--rounds", "2"]) == 0
        said = capsys.readouterr().out
        assert all(engine in said for engine in ("onnx ", "onnx-int8 ", "torch-fp32 "))
        assert ("torch-bf16 " in said) == (dtype == torch.bfloat16)
    assert main(["guard", "export", str(trained), str(tmp_path / "best"), "--engine", "auto"]) == 0
    told = json.loads((tmp_path / "best" / "guard.json").read_text())
    assert told["engine"] == told["measured"]["best"]["128 tokens, batch 1"]
    assert len(told["measured"]["timings"]) == 16
    assert open_guard(tmp_path / "best").judge([("p", "r")])[0].unsafe is not None


def test_the_page(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands, and its Python, on a guard and tables that are there."""
    monkeypatch.setattr(bench, "TOKENS", (16,))
    monkeypatch.setattr(bench, "BATCHES", (1,))
    monkeypatch.setattr(export, "LEAST_COSINE", 0.9)  # random weights
    shutil.copytree(trained, tmp_path / "guard")
    with TableWriter(tmp_path / "tables", {"name": "t"}) as writer:
        for i in range(160):
            label = PartialLabel(safe=i % 4 == 0, categories=(CATEGORIES[5].value,) if i % 4 else (), severity=i % 4)
            writer.add(QARecord(prompt=f"question {i}", response="a fire " * (i % 9 + 1), label=label, dataset="mine"))
    page = (Path(__file__).parents[3] / "docs" / "guard-serving.md").read_text()
    (block,), (source,) = (re.findall(rf"^```{kind}\n(.*?)^```", page, re.M | re.S) for kind in ("bash", "python"))
    for line in block.replace("DIR", str(tmp_path)).splitlines():
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    capsys.readouterr()
    exec(source.replace("DIR", str(tmp_path)), {})
    assert capsys.readouterr().out.split()[0] in ("True", "False")


def test_wide_channels_are_smoothed(trained: Path, tmp_path: Path) -> None:
    """s_j = max|x_j|^0.9 / max|w_j|^0.1 over its geometric mean; x widths (100, 1), w widths (1, 1): s = 10^(+-0.9)."""
    from onnx import TensorProto, checker, helper, numpy_helper

    weight = np.array([[1.0, -0.5], [0.25, 1.0]], dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.array([[100.0, 1.0], [-20.0, 0.5]], dtype=np.float32)

    class Given:
        def _asdict(self) -> dict[str, Any]:
            return {"x": x}

    assert network._smooth(model, [Given()], 0.5, alpha=0.9) == []  # type: ignore[list-item]  # not narrowing
    checker.check_model(model)
    found = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    assert found["x/factor"] == pytest.approx([10**-0.9, 10**0.9], rel=1e-5)
    assert found["x/weight0"] == pytest.approx(weight * [[10**0.9], [10**-0.9]], rel=1e-5) and "w" not in found
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": x})[0] == pytest.approx(x @ weight, rel=1e-4)


def test_what_fails_the_check_is_tried_with_more_in_float(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[bool] = []

    def judged(*given: Any) -> Check:
        tries.append(True)
        return Check(129, 0.9 if len(tries) == 1 else 0.0, 0.0, 1.0, 0.15)

    monkeypatch.setattr(export, "compare", judged)
    export_guard(trained, tmp_path / "out", "onnx-int8")
    assert (
        len(tries) == 2
        and json.loads((tmp_path / "out" / "guard.json").read_text())["inputs_apart"] == 4 * network.APART
    )


def write_product(path: Path, weight: np.ndarray) -> None:
    """A network of one product, x times the weight."""
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The initializers of a network by name."""
    import onnx
    from onnx import numpy_helper

    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def test_the_widest_inputs_of_a_narrowing_product_are_multiplied_in_float(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    weight = chance.normal(size=(48, 8)).astype(np.float32)
    x = chance.normal(size=(32, 48)).astype(np.float32)
    x[:, 7], x[3, 20] = x[:, 7] * 300, 200.0  # a wide channel, and one of a single text
    plain, small = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    write_product(plain, weight)

    class Given:
        def _asdict(self) -> dict[str, Any]:
            return {"x": x}

    truth, apart = x @ weight, {}
    for count in (0, 1, 2):
        network.quantise(plain, small, [Given()], apart=count / 48)  # type: ignore[list-item]
        apart[count] = float(np.abs(session(small, 1).run(None, {"x": x})[0] - truth)[4:].mean())
        places = [value for name, value in read_tensors(small).items() if name.endswith("/places")]
        assert [sorted(one.tolist()) for one in places] == [[], [[7]], [[7, 20]]][count]
    assert apart[2] < apart[1] / 2 < apart[0] / 4


def test_sums_of_int8_products_do_not_overflow_without_vnni(tmp_path: Path) -> None:
    plain, small = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    write_product(plain, np.ones((64, 8), dtype=np.float32))  # with 8 bits 2 x 255 x 127, cut at 32,767
    network.quantise(plain, small)
    (weight,) = (value for value in read_tensors(small).values() if value.dtype == np.int8 and value.ndim == 2)
    assert 2 * 255 * int(np.abs(weight.astype(int)).max()) < 2**15
    assert session(small, 1).run(None, {"x": np.ones((4, 64), dtype=np.float32)})[0] == pytest.approx(64, rel=0.01)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(1, 4))
def test_the_highest_window_of_each_text_counts(lengths: list[int], batch_size: int) -> None:
    """Each text has windows of 1..n tokens, and the network says the number of tokens."""
    texts = [("x" * n, None) for n in lengths]

    def run(chosen: Sequence[Window]) -> Logits:
        size = np.array([len(head) for head, _ in chosen], dtype=np.float32)
        return Logits(np.repeat(size[:, None], 19, 1), np.repeat(-size[:, None], 3, 1), size)

    seen: list[int] = []
    found = highest(
        texts,
        lambda text: [([7] * n, []) for n in range(len(text[0]) + 1)],
        run,
        batch_size=batch_size,
        on_rows=seen.append,
    )
    assert found.refusal.tolist() == lengths and (found.categories == np.array(lengths)[:, None]).all()
    assert (found.at_least == 0).all() and sum(seen) == len(texts)


def test_padding_by_hand() -> None:
    ids, kinds, mask = padded([([5, 6], [7]), ([], [8])], Marks(1, 2, 0))
    assert ids.tolist() == [[1, 5, 6, 2, 7, 2], [1, 2, 8, 2, 0, 0]]
    assert kinds.tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0]]
    assert mask.tolist() == [[1] * 6, [1] * 4 + [0, 0]]
