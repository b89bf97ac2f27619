"""Tiny models made on the spot, and the real bundled ones where they may be fetched."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from poise.models.trunk import Trunk

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: threads of one would only wait for the other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("poise", deadline=None)  # a busy machine is no failure
settings.load_profile("poise")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAYERS = 4


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama (4 layers, hidden 32, 600 tokens) with a ChatML tokenizer learnt from the seeds."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_seed_texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = CHATML
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,  # so that the tokens are not all equally likely
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-lm"
    LlamaForCausalLM(config).float().save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random BERT (2 layers, hidden 32) with a WordPiece tokenizer learnt from the seeds."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_seed_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=160,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-encoder"
    BertModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact arithmetic on the CPU, whatever this machine would choose for its frozen weights."""
    import torch

    for module in ("trunk", "encoder", "separate"):
        monkeypatch.setattr(f"poise.models.{module}.frozen_dtype", lambda device: torch.float32)
        monkeypatch.setattr(f"poise.models.{module}.default_device", lambda: torch.device("cpu"))


@pytest.fixture
def make_trunk(tiny_lm: Path, float32: None) -> Callable[..., Trunk]:
    """Builds a float32 trunk on the tiny model; arguments are those of `Trunk` after the source."""
    from poise.models.trunk import Trunk

    def make(*roles: str, heads: tuple[str, ...] = (), **settings: Any) -> Trunk:
        return Trunk(tiny_lm, roles=roles, scalar_roles=heads, **settings)

    return make


@pytest.fixture
def real_model() -> Callable[[str], Path]:
    """Folder of a bundled model; skips unless it is there already or CI or POISE_TEST_FETCH allows fetching it."""
    from poise.models.bundled import cached_path, fetch

    def get(name: str) -> Path:
        if cached_path(name) is None and not (os.environ.get("CI") or os.environ.get("POISE_TEST_FETCH")):
            pytest.skip(f"{name} is not fetched; run poise models fetch {name} or set POISE_TEST_FETCH=1")
        return fetch(name)

    return get


def _seed_texts() -> list[str]:
    from poise.data import load_seeds

    return [prompt.prompt for prompt in load_seeds().prompts]


sys.path.insert(0, str(Path(__file__).parent / "pipeline"))  # toy_stages, for tests of pipeline and cli

TOY_RECIPE = """\
name: toy
seed: 7
numbers:
  count: 4
total: {}
report: {}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe over the toy stages, alone in its folder."""
    path = tmp_path / "recipe" / "toy.yaml"
    path.parent.mkdir()
    path.write_text(TOY_RECIPE, encoding="utf-8")
    return path
