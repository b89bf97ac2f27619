"""One frozen language model that plays every role: actor, reward, cost, two critics, and the reference.

A role is a LoRA adapter (PEFT) on the upper layers of the trunk, some with a scalar head; the reference is the trunk
with all adapters off. Because adapters sit only on layers `shared_layers` and above, the layers below compute the same
for every role: `lower` runs them once, and `upper` continues from there role by role. On SmolLM2-135M with 20 of 30
layers shared, six roles cost 20 + 6 x 10 layers instead of 180.

Sequences are padded on the right and the attention is causal, so padding can never reach a kept token: no attention
mask is needed and results do not depend on the padding. Masks come from lengths, never from token ids.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poise.errors import PoiseError
from poise.models.folded import fold_adapters
from poise.models.layers import check_shared, layers_of, only_layers
from poise.models.log_probs import head_weight, token_log_probs
from poise.models.packing import Packed
from poise.models.precision import default_device, frozen_dtype

REFERENCE = "reference"


class Tokens(NamedTuple):
    """A right-padded batch of prompt + response.

    Args:
        ids: int64[B, T], padded with any id.
        prompt_length: int64[B], tokens of the prompt with its template.
        length: int64[B], prompt and response tokens together.
    """

    ids: Tensor
    prompt_length: Tensor
    length: Tensor

    @property
    def kept(self) -> Tensor:
        """bool[B, T], true at real tokens."""
        return torch.arange(self.ids.shape[1], device=self.ids.device)[None] < self.length[:, None]

    @property
    def response(self) -> Tensor:
        """bool[B, T], true at response tokens."""
        at = torch.arange(self.ids.shape[1], device=self.ids.device)[None]
        return (at >= self.prompt_length[:, None]) & self.kept


def collate(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], device: torch.device) -> Tokens:
    """Right-pad `prompt + response` id lists into a batch; masks follow from the lengths."""
    rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    prompt_lengths = torch.tensor([len(p) for p in prompts])
    return Tokens(ids.to(device), prompt_lengths.to(device), lengths.to(device))


def last_kept(values: Tensor, length: Tensor) -> Tensor:
    """Values at the last kept token, the score position of every scalar head.

    Args:
        values: [B, T] or [B, T, H], right-padded.
        length: int64[B], number of kept tokens, at least 1.

    Returns:
        [B] or [B, H].
    """
    return values[torch.arange(values.shape[0], device=values.device), length - 1]


class Trunk(nn.Module):
    """A frozen causal LM with named adapters and scalar heads.

    Args:
        source: model folder or hub id.
        roles: adapter names to create, for example ("actor", "reward", "cost").
        scalar_roles: those of them that also get a scalar head.
        shared_layers: adapters sit on this layer and above; the layers below run once for all roles.
        rank: LoRA rank; scaling is 2 (alpha = 2 rank).
        seed: initialises adapters and heads.

    Raises:
        PoiseError: the model can't be loaded, has no chat template, or its layers can't be run in two parts.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        roles: Sequence[str] = (),
        scalar_roles: Sequence[str] = (),
        shared_layers: int = 0,
        rank: int = 8,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.device = device or default_device()
        self.model, self.tokenizer = load_causal_lm(source, self.device)
        self.decoder: Any = self.model.get_decoder()
        self.shared_layers = shared_layers
        check_shared(self.decoder, shared_layers, str(source))
        self._add_adapters(roles, rank, seed)
        torch.manual_seed(seed)
        width = self.model.config.hidden_size
        self.heads = nn.ModuleDict({role: ScalarHead(width) for role in scalar_roles}).to(self.device)
        self.roles = tuple(roles)
        self.train(False)
        self._check_split(str(source))

    def _add_adapters(self, roles: Sequence[str], rank: int, seed: int) -> None:
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer
        from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers

        name_of_layers, layers = layers_of(self.decoder)
        upper = [
            f"{name_of_layers}.{at}.{name}"
            for at in range(self.shared_layers, len(layers))
            for name, module in layers[at].named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
        ]
        for index, role in enumerate(roles):
            torch.manual_seed(seed * 1000 + index)
            config = LoraConfig(
                r=rank,
                lora_alpha=2 * rank,
                lora_dropout=0.0,
                target_modules=upper,
            )
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are the point
                warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # PEFT sets it for a Conv1D itself
                self.model.add_adapter(config, adapter_name=role)
        self._adapted = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        self._active = roles[-1] if roles else REFERENCE
        for module in self._adapted:
            module.cast_input_dtype_enabled = False  # autocast multiplies in the trunk's format, see `upper`
        fold_adapters(self.model)
        for name, parameter in self.model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
            parameter.requires_grad_(False)
        self._adapter_parameters = [p for name, p in self.model.named_parameters() if ".lora_" in name]
        self._unfreeze()

    def _unfreeze(self) -> None:
        """PEFT freezes the inactive roles at each switch; a loss over two roles would silently lose one's gradients."""
        for parameter in self._adapter_parameters:
            parameter.requires_grad_(True)

    def _check_split(self, source: str) -> None:
        """Lower then upper must equal the whole forward pass; models that do more between layers fail here."""
        ids = torch.arange(12, device=self.device).reshape(2, 6) % self.model.config.vocab_size
        with torch.inference_mode(), self.role(REFERENCE):
            whole = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        with torch.inference_mode():
            split = self.upper(self.lower(ids), REFERENCE)
        if not torch.allclose(whole.float(), split.float(), atol=1e-2, rtol=1e-2):
            raise PoiseError(
                f"the layers of {self.model.config.model_type!r} can't be run in two parts",
                where=source,
                do="set shared_layers: 0" if self.shared_layers else "use another model",
            )

    def all_models(self) -> list[Any]:
        """The Transformers models that play the roles."""
        return [self.model]

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """Run the trunk as `name`; `REFERENCE` means no adapter."""
        if not self.roles_present:
            yield
            return
        if name == REFERENCE:
            self._enable(False)
            try:
                yield
            finally:
                self._enable(True)
        else:
            if name not in self.roles:
                raise ValueError(f"no role {name!r} among {self.roles}")
            if name != self._active:  # the model's own `set_adapter` walks through all modules, some 10 ms each time
                for layer in self._adapted:
                    layer.set_adapter(name)
                self._active = name
                self._unfreeze()
            yield

    def _enable(self, on: bool) -> None:
        for layer in self._adapted:
            layer.enable_adapters(on)
        if on:
            self._unfreeze()

    @property
    def roles_present(self) -> bool:
        """True when any adapter was added."""
        return bool(getattr(self, "roles", ()))

    def autocast(self) -> torch.autocast:
        """Multiply in the trunk's number format; adapter weights stay float32."""
        dtype = self.model.dtype
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)

    @torch.no_grad()
    def lower(self, ids: Tensor, packed: Packed | None = None) -> Tensor:
        """Hidden states [B, T, H] after the shared layers, the same for every role; ids int64[B, T], or `packed.ids`
        with the batch they are of."""
        if self.shared_layers == 0:
            embedded: Tensor = self.model.get_input_embeddings()(ids)
            return embedded
        inputs = self._inputs(packed)
        with only_layers(self.decoder, 0, self.shared_layers, norm=False):
            hidden: Tensor = self.decoder(input_ids=ids, **inputs).last_hidden_state
        return hidden

    def upper(self, lower: Tensor, role: str, packed: Packed | None = None) -> Tensor:
        """Final hidden states [B, T, H] of `role` from the shared layers' output [B, T, H] (of the same `packed`)."""
        inputs = self._inputs(packed)
        above: AbstractContextManager[None] = nullcontext()
        if self.shared_layers:
            above = only_layers(self.decoder, self.shared_layers, len(self.decoder.layers), norm=True)
        with self.role(role), self.autocast(), above:
            hidden: Tensor = self.decoder(inputs_embeds=lower, **inputs).last_hidden_state
        return hidden

    def _inputs(self, packed: Packed | None) -> dict[str, Any]:
        return {"use_cache": False} if packed is None else packed.inputs(self.model)

    def values(self, hidden: Tensor, role: str) -> Tensor:
        """Scalar head of `role` at every token: [B, T, H] -> float32[B, T]."""
        values: Tensor = self.heads[role](hidden.float()).squeeze(-1)
        return values

    def score(self, lower: Tensor, length: Tensor, role: str) -> Tensor:
        """Score of `role` at the last kept token, float32[B]; reward: higher is better, cost: higher is worse."""
        return self.values(last_kept(self.upper(lower, role), length)[:, None], role)[:, 0]

    def response_log_probs(self, hidden: Tensor, tokens: Tokens, temperature: float = 1.0) -> Tensor:
        """Log-probability of each response token under the final hidden states.

        The vocabulary head runs at response positions only. Args: hidden [B, T, H]; temperature, the one that the
        response was sampled with, so that these are the probabilities of the policy that acted.

        Returns:
            float32[B, T], zero outside the response; entry t belongs to token t (predicted from position t - 1).
        """
        chosen = tokens.response[:, 1:]
        weight = head_weight(self.model)
        values = token_log_probs(hidden[:, :-1][chosen], weight, tokens.ids[:, 1:][chosen], temperature)
        out = torch.zeros(tokens.ids.shape, dtype=torch.float32, device=hidden.device)
        return out.masked_scatter(tokens.response, values)

    def parameters_of(self, role: str) -> list[nn.Parameter]:
        """Adapter and head parameters of one role, in a fixed order."""
        own = [p for name, p in self.model.named_parameters() if f".{role}." in name]
        return own + (list(self.heads[role].parameters()) if role in self.heads else [])

    def state_of(self, role: str) -> dict[str, Tensor]:
        """Adapter and head tensors of one role by name."""
        own = {name: p.detach() for name, p in self.model.named_parameters() if f".{role}." in name}
        head = (
            {f"head.{name}": p.detach() for name, p in self.heads[role].named_parameters()}
            if role in self.heads
            else {}
        )
        return own | head

    @torch.no_grad()
    def load_role(self, role: str, state: dict[str, Tensor], saved_as: str | None = None) -> None:
        """Copy tensors saved by `state_of` into `role`; `saved_as` is the role's name at saving time."""
        saved = saved_as or role
        mine = self.state_of(role)
        theirs = {name.replace(f".{saved}.", f".{role}."): tensor for name, tensor in state.items()}
        shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (mine, theirs)]
        if shapes[0] != shapes[1]:
            wrong = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
            raise PoiseError(
                f"checkpoint of role {saved!r} does not fit at {wrong[0]}",
                where="trunk",
                do="use the model, rank and shared_layers it was trained with",
            )
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])


class ScalarHead(nn.Module):
    """Linear(H, 1) in float32 with zero bias at the start; weights start small, so that scores start near zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.normal_(self.linear.weight, std=1.0 / width)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., 1]."""
        out: Tensor = self.linear(hidden)
        return out


def load_causal_lm(source: str | Path, device: torch.device, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Model (in the machine's number format, or in `dtype`) and tokenizer.

    Raises:
        PoiseError: not loadable as a causal LM, or without a chat template or end-of-sequence token.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype or frozen_dtype(device))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise PoiseError(
            f"can't be loaded as a causal language model: {str(error).splitlines()[0]}",
            where=str(source),
            do="give a Transformers model folder, a hub id or a bundled name",
        ) from error
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise PoiseError("has no chat template or no end-of-sequence token", where=str(source), do="use a chat model")
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for each shape, 3 ms a layer, and ours never repeat
    return model.to(device).eval(), tokenizer
