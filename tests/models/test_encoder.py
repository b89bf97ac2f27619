"""The encoder: mean over kept tokens, order kept, the longer text cut first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from poise.errors import PoiseError
from poise.models.encoder import Encoder

pytestmark = pytest.mark.usefixtures("float32")
TEXTS = ["tea", "a long sentence about the garden and the river", "winter", "the bicycle stands in the kitchen"]


def test_pooling_is_the_mean_over_kept_tokens(tiny_encoder: Path) -> None:
    encoder = Encoder(tiny_encoder)
    with torch.no_grad():
        pooled = encoder(TEXTS)
        for text, got in zip(TEXTS, pooled, strict=True):
            ids = encoder.tokenizer(text, return_tensors="pt")
            expected = encoder.model(**ids).last_hidden_state[0].mean(0)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_embed_keeps_the_order_whatever_the_batch(tiny_encoder: Path) -> None:
    encoder, seen = Encoder(tiny_encoder), []
    pairs = encoder.embed(TEXTS, TEXTS[::-1], batch_size=3, on_rows=seen.append)
    assert seen == [3, 1]
    alone = torch.cat([encoder.embed([a], [b]) for a, b in zip(TEXTS, TEXTS[::-1], strict=True)])
    torch.testing.assert_close(pairs, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pairs.norm(dim=-1), torch.ones(4))
    assert encoder.embed([]).shape == (0, encoder.width)


def test_the_longer_text_is_cut_first(tiny_encoder: Path) -> None:
    """Of a short prompt and a very long response the prompt stays whole."""
    encoder = Encoder(tiny_encoder, max_length=24)
    long = "river " * 100
    with torch.no_grad():
        assert not torch.allclose(encoder(["tea"], [long]), encoder(["winter"], [long]), atol=1e-4)
        torch.testing.assert_close(encoder(["tea"], [long]), encoder(["tea"], [long + " never seen"]))


def test_a_folder_that_is_no_encoder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PoiseError, match="can't be loaded as an encoder"):
        Encoder(tmp_path)


def test_weights_that_were_cut_short(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(PoiseError, match="can't be loaded as an encoder"):
        Encoder(folder)
