"""SmolLM2-135M-Instruct from its GGUF file to an ordinary Transformers folder (safetensors, bfloat16).

Transformers can load the file by itself, but slowly and as an untrainable quantised model; here it becomes a plain
Llama. llama.cpp stores the query and key rows interleaved for its rotary embedding; that is undone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poise.models.gguf import FloatArray, read_gguf

_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}


def convert(gguf: Path, folder: Path) -> None:
    """Write config, bfloat16 weights, tokenizer and chat template of the Llama model in `gguf` into `folder`."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    metadata, tensors = read_gguf(gguf)
    heads = metadata["llama.attention.head_count"]
    key_heads = metadata["llama.attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=metadata["llama.vocab_size"],
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=metadata["llama.context_length"],
        rope_parameters={"rope_type": "default", "rope_theta": metadata["llama.rope.freq_base"]},
        rms_norm_eps=metadata["llama.attention.layer_norm_rms_epsilon"],
        tie_word_embeddings=True,
        bos_token_id=metadata["tokenizer.ggml.bos_token_id"],
        eos_token_id=metadata["tokenizer.ggml.eos_token_id"],
        pad_token_id=metadata["tokenizer.ggml.eos_token_id"],
    )
    state = {
        name: torch.from_numpy(weight).to(torch.bfloat16).contiguous()
        for name, weight in _rename(tensors, heads, key_heads).items()
    }
    model = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=state, dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    _tokenizer(metadata).save_pretrained(folder)


def _rename(tensors: dict[str, FloatArray], heads: int, key_heads: int) -> dict[str, FloatArray]:
    """GGUF tensor names to Transformers' Llama names; query and key rows de-interleaved."""
    state = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] in _TOP_NAMES:
            state[_TOP_NAMES[parts[0]]] = tensor
            continue
        weight = tensor
        if parts[2] in ("attn_q", "attn_k"):
            n = heads if parts[2] == "attn_q" else key_heads
            rows, columns = tensor.shape
            weight = tensor.reshape(n, rows // n // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        state[f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.weight"] = weight
    return state


def _tokenizer(metadata: dict[str, Any]) -> Any:
    """The byte-level BPE tokenizer with its chat template, from GGUF metadata."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(line.split(" ")) for line in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3
    kinds = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        unk_token="<|endoftext|>",
        model_max_length=metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = metadata["tokenizer.chat_template"]
    return fast
