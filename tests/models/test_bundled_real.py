"""The real bundled models behave as language model and encoder should (skipped until they are fetched)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from poise.data.rows import Sampling
from poise.models.bundled import BUNDLED, cached_path, tensors_sha256
from poise.models.encoder import Encoder
from poise.models.generate import chat_ids
from poise.models.local import LocalEndpoint
from poise.models.trunk import REFERENCE, Trunk, collate

RealModel = Callable[[str], Path]
TRICKY = [
    "plain words",
    "  two leading, two trailing  ",
    "tabs\tand\nnewlines\r\n\n\n",
    "naïve café — “quotes” … ﬁ",
    "日本語と한국어 и русский عربي",
    "emoji 🙂👩‍👩‍👧 and flags 🇫🇷",
    "digits 1234567890 and 3.14159",
    "zero\u200bwidth \u00a0 nbsp",
    "def f(x):\n    return x ** 2  # code",
    "<|im_start|>user\nnot an injection<|im_end|>",
    "\x00\x01 control",
]
CITIES = [
    *("London", "Berlin", "Madrid", "Rome", "Vienna", "Prague", "Lisbon", "Dublin", "Athens", "Oslo"),
    *("Moscow", "Cairo", "Tokyo", "Delhi", "Sydney", "Boston", "Lyon", "Geneva", "Brussels", "Milan"),
]


@pytest.fixture(scope="module")
def trunks() -> dict[str, Trunk]:
    """The language model, loaded by the first test that needs it."""
    return {}


@pytest.fixture
def smollm2(real_model: RealModel, trunks: dict[str, Trunk]) -> Trunk:
    folder = real_model("smollm2-135m-instruct")
    if not trunks:
        trunks["it"] = Trunk(folder, shared_layers=20)
    return trunks["it"]


def log_prob(trunk: Trunk, prompt: str, continuations: list[str]) -> list[float]:
    """Log-probability of each continuation of a plain text."""
    ids = [trunk.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, *continuations)]
    tokens = collate([ids[0]] * len(continuations), ids[1:], trunk.device)
    with torch.no_grad():
        hidden = trunk.upper(trunk.lower(tokens.ids), REFERENCE)
        return trunk.response_log_probs(hidden, tokens).sum(-1).tolist()


def test_smollm2_knows_its_capital(smollm2: Trunk) -> None:
    paris, *others = log_prob(smollm2, "The capital of France is", [f" {city}" for city in ("Paris", *CITIES)])
    assert paris > max(others) + 1 and paris > -2


def test_smollm2_answers_a_question(smollm2: Trunk) -> None:
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    said = LocalEndpoint(smollm2, "smollm2").chat([talk], [Sampling(temperature=0.0, max_new_tokens=20)])[0]
    assert said.finished and "Paris" in said.text


def test_smollm2_round_trip_of_tricky_strings(smollm2: Trunk) -> None:
    for text in TRICKY:
        ids = smollm2.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert smollm2.tokenizer.decode(ids) == text


def test_smollm2_splits_words_as_published(smollm2: Trunk) -> None:
    """One token a digit; the template's marks are single tokens; the default system message is the model's own."""
    assert len(smollm2.tokenizer("2024", add_special_tokens=False)["input_ids"]) == 4
    ids = chat_ids(smollm2, [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])
    text = smollm2.tokenizer.decode(ids)
    assert text == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(smollm2.tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert smollm2.tokenizer.eos_token == "<|im_end|>"


def test_minilm_puts_like_beside_like(real_model: RealModel) -> None:
    encoder = Encoder(real_model("all-minilm-l6-v2"))
    texts = [
        "A man is playing a guitar.",
        "Someone strums a six-stringed instrument.",
        "How do I bake sourdough bread?",
        "What is a good recipe for a loaf with natural yeast?",
        "The stock market fell sharply on Monday.",
        "Share prices dropped at the start of the week.",
    ]
    embedded = encoder.embed(texts)
    assert embedded.shape == (6, 384)
    torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(6))
    similar = embedded @ embedded.T
    for i in range(6):
        partner = i ^ 1
        assert similar[i, partner] > max(similar[i, j] for j in range(6) if j not in (i, partner)) + 0.2


def test_minilm_embeds_a_text_alike_in_every_batch(real_model: RealModel) -> None:
    encoder = Encoder(real_model("all-minilm-l6-v2"))
    texts = ["short", "a somewhat longer sentence about nothing", "word " * 300]
    together = encoder.embed(texts)
    alone = torch.cat([encoder.embed([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=2e-2, rtol=0)


@pytest.mark.parametrize("name", list(BUNDLED))
def test_the_folder_says_what_it_is(real_model: RealModel, name: str) -> None:
    folder = real_model(name)
    assert folder == cached_path(name)
    assert (folder / "model.safetensors").stat().st_size / 1e6 == pytest.approx(BUNDLED[name].size_mb, rel=0.05)
    assert tensors_sha256(folder / "model.safetensors") == BUNDLED[name].weights_sha256
    assert list(folder.glob("LICENSE*"))
