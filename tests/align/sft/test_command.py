"""`poise align sft`: what it prints and leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from poise.cli.main import main


def test_the_command(tiny_lm: Path, instruction_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with instruction_file.open("a") as file:
        file.write('{"instruction": "Hi"}\n')
    words = ["align", "sft", str(instruction_file), "--model", str(tiny_lm), "--out", str(tmp_path / "out"), "--packed"]
    words += ["--lora", "--max-steps", "2", "--max-length", "96", "--eval-share", "0.2", "--template", "pku"]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"model: {tmp_path / 'out'}" and "rows dropped: no-response 1" in out
    assert any(line.startswith("held out: loss ") for line in out)
    assert main(words) == 0 and "is complete; nothing to do" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instructions.jsonl", "out"]
    assert main([*words, "--epochs", "1"]) == 2
    assert "epochs 3 there, 1 now" in capsys.readouterr().err


def test_wrong_input_leaves_nothing(tmp_path: Path, tiny_lm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["align", "sft", str(tmp_path / "none.jsonl"), "--model", str(tiny_lm), "--out", str(tmp_path / "out")]
    assert main(words) == 2 and "none.jsonl: no such file" in capsys.readouterr().err
    assert main([*words, "--warmup", "2"]) == 2 and "warmup is 2.0" in capsys.readouterr().err
    assert main([*words, "--template", "x"]) == 2
    assert list(tmp_path.iterdir()) == []
