"""Pairs as token ids, pairs as tensors, and the two things that are computed once for a whole run.

`encode_pairs` turns texts into ids under the model's own chat template. `lay_out` packs some pairs into rows, in which
both responses of a pair stand behind one prompt (`poise.models.packing`), where the model can tell them apart. `Store`
keeps what does not change while adapters are trained: the log-probabilities of the reference, and the outputs of the
layers below the adapters, on disk as far as they are given room.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.align.engine.processes import agreed, by_first, shared_out, total
from poise.align.sft.instructions import BadRowError
from poise.align.sft.templates import Control, control_tokens
from poise.align.train.data import Message, TextPair
from poise.errors import PoiseError
from poise.models.checkpoint import load_state, save_state
from poise.models.encoder import ignore
from poise.models.generate import chat_ids
from poise.models.packing import WIDTH, Group, Packed, can_pack, pack, packed_log_probs
from poise.models.trunk import Trunk

_AT_ONCE = 8192  # tokens computed together
_TIMES_ON_GPU = 4  # with gradients kept, a second batch saves no memory, and a GPU waits for each


class EncodedPair(NamedTuple):
    """A pair in token ids. Args: prompt with its template; responses with their end token where they were not cut."""

    text: TextPair
    prompt: list[int]
    responses: tuple[list[int], list[int]]
    prompt_cut: bool
    responses_cut: int

    @property
    def tokens(self) -> int:
        """Of the prompt and both responses."""
        return len(self.prompt) + sum(map(len, self.responses))


class Encoded(NamedTuple):
    """Args: pairs that can be used; left out, (rule, place) each."""

    pairs: list[EncodedPair]
    left_out: list[tuple[str, str]]


def encode_pairs(
    trunk: Trunk,
    pairs: Sequence[TextPair],
    max_prompt: int,
    max_response: int,
    on_row: Callable[[int], object] = ignore,
) -> Encoded:
    """Token ids of all pairs; a text with a control token in it could forge a turn and is left out.

    Args:
        max_prompt: tokens of a prompt with its template; a longer one loses its beginning.
        max_response: tokens of a response; a longer one loses its end, and its end token.

    Raises:
        PoiseError: the chat template has no generation prompt, the limits do not fit the model, or no pair is left.
    """
    check_template(trunk)
    _check_limits(trunk, max_prompt + max_response + 1)
    control = control_tokens(trunk.tokenizer)
    done, left_out = [], []
    for pair in pairs:
        try:
            done.append(_encode(trunk, pair, max_prompt, max_response, control))
        except BadRowError as reason:
            left_out.append((str(reason), pair.where))
        on_row(1)
    if not done:
        rules = ", ".join(sorted({rule for rule, _ in left_out}))
        raise PoiseError(f"no pair is left ({rules})", where="data", do="look at the rows that it names")
    return Encoded(done, left_out)


def check_template(trunk: Trunk) -> None:
    """Make sure that the chat template can end a prompt where the answer begins.

    Raises:
        PoiseError: it can't.
    """
    asked = [{"role": "user", "content": "question"}]
    answered = [*asked, {"role": "assistant", "content": "answer"}]

    def render(messages: list[Message], prompt: bool) -> str:
        text: str = trunk.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return text

    with_it, without, whole = render(asked, True), render(asked, False), render(answered, False)
    if with_it == without and not whole.removeprefix(without).lstrip().startswith("answer"):
        header = whole.removeprefix(without).partition("answer")[0]
        raise PoiseError(
            f"the chat template has no generation prompt: an answer begins with {header!r}, a prompt does not end so",
            where="model",
            do="give a model whose template knows add_generation_prompt",
        )


def _check_limits(trunk: Trunk, tokens: int) -> None:
    context = getattr(trunk.model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and tokens > context:
        raise PoiseError(
            f"prompt and response may have {tokens} tokens with the end, the model's context has {context}",
            where="data",
            do="lower data.max_prompt_tokens or data.max_response_tokens",
        )


def _encode(trunk: Trunk, pair: TextPair, max_prompt: int, max_response: int, control: Control) -> EncodedPair:
    from jinja2 import TemplateError

    texts = [*(message["content"] for message in pair.messages), *pair.responses]
    if any(token in text for text in texts for token in control.texts):
        raise BadRowError("special-token")
    try:
        prompt = chat_ids(trunk, pair.messages)
    except TemplateError as error:
        raise BadRowError("template") from error
    spoken = [trunk.tokenizer(text, add_special_tokens=False)["input_ids"] for text in pair.responses]
    if not all(spoken):
        raise BadRowError("empty-response")
    end = [trunk.tokenizer.eos_token_id]
    first, second = ([*ids, *end] if len(ids) <= max_response else ids[:max_response] for ids in spoken)
    if first == second:
        raise BadRowError("equal-where-cut")
    cut = sum(len(ids) > max_response for ids in spoken)
    return EncodedPair(pair, prompt[-max_prompt:], (first, second), len(prompt) > max_prompt, cut)


class Layout(NamedTuple):
    """Some pairs as packed batches; what stands where follows from them. Args: parts; prompts, their lengths in order
    of the pairs."""

    parts: list[Packed]
    prompts: list[int]

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return sum(part.real for part in self.parts)

    @property
    def padding(self) -> int:
        """Places that hold no token."""
        return sum(part.ids.numel() for part in self.parts) - self.tokens

    def places(self) -> list[list[tuple[int, Tensor]]]:
        """Of each pair, (part, places among its B x T) of the prompt and both responses, always in that order; where
        a prompt is computed for each response, it comes before each."""
        found: dict[int, tuple[int, int, Tensor]] = {}
        for number, part in enumerate(self.parts):
            counts = torch.bincount(part.owner, minlength=len(part.last)).tolist()
            sources, targets = (torch.split(each.cpu(), counts) for each in (part.source, part.target))
            for at, source, target in zip(part.numbers.tolist(), sources, targets, strict=True):
                found[at] = (number, int(source[0]), target)
        out: list[list[tuple[int, Tensor]]] = []
        for pair, size in enumerate(self.prompts):
            (home, ends, first), (other, begins, second) = found[2 * pair], found[2 * pair + 1]
            pieces = [(home, torch.cat([torch.arange(ends - size + 1, ends + 1), first]))]
            if (other, begins) != (home, ends):
                second = torch.cat([torch.arange(begins - size + 1, begins + 1), second])
            out.append([*pieces, (other, second)])
        return out


def lay_out(pairs: Sequence[EncodedPair], device: torch.device, shared: bool = True) -> Layout:
    """The batches of some pairs. Args: shared, whether both responses stand behind one prompt."""
    width = max(WIDTH, *(pair.tokens for pair in pairs))  # so that no pair is cut in two
    groups = [Group(pair.prompt, pair.responses) for pair in pairs]
    most = _AT_ONCE * (_TIMES_ON_GPU if device.type == "cuda" else 1)
    parts = pack(groups, max(width, most), device, width=width, shared=shared)
    return Layout(parts, [len(pair.prompt) for pair in pairs])


def pair_log_probs(trunk: Trunk, lower: Sequence[Tensor], layout: Layout, role: str) -> Tensor:
    """log pi(y | x) of both responses under a role, sums over their tokens, float32[P, 2].

    Args:
        lower: outputs of the lower layers, of each part of the layout.
    """
    sums = []
    for part, states in zip(layout.parts, lower, strict=True):
        sums.append(part.sums(packed_log_probs(trunk, part, trunk.upper(states, role, part))))
    order = torch.cat([part.numbers for part in layout.parts]).argsort()
    return torch.cat(sums)[order].reshape(-1, 2)


def by_length(lengths: Sequence[int], limit: int = _AT_ONCE) -> list[list[int]]:
    """Places in groups of near-equal length, shortest first, of at most `limit` tokens with their padding."""
    groups: list[list[int]] = [[]]
    for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
        if groups[-1] and (len(groups[-1]) + 1) * lengths[at] > limit:
            groups.append([])
        groups[-1].append(at)
    return groups if groups[0] else []


class Store:
    """What is computed once for N pairs and kept in the work folder.

    Args:
        trunk: the model; the layers below its adapters never change.
        pairs: all pairs of the run, held-out ones among them.
        folder: of the work.
        limit: bytes of disk for the outputs of the lower layers; pairs that find no room are computed each time.
        on_rows: called with the number of pairs after each group.
    """

    def __init__(
        self,
        trunk: Trunk,
        pairs: Sequence[EncodedPair],
        folder: Path,
        limit: int,
        on_rows: Callable[[int], object] = ignore,
    ) -> None:
        self.trunk, self.pairs, self._on_rows = trunk, pairs, on_rows
        self._folder, self._limit = folder, limit if trunk.shared_layers else 0
        self._width, self._dtype = int(trunk.model.config.get_text_config().hidden_size), trunk.model.dtype
        self._shared = _can_share(trunk, pairs)
        self._offsets, self._rows = [-1] * len(pairs), 0
        self._bytes = self._width * torch.empty(0, dtype=self._dtype).element_size()
        self._kept: Tensor | None = None

    def lay_out(self, chosen: Sequence[int]) -> Layout:
        """The batches of some pairs."""
        return lay_out([self.pairs[at] for at in chosen], self.trunk.device, self._shared)

    def lower(self, chosen: Sequence[int], layout: Layout) -> list[Tensor]:
        """Outputs of the lower layers [B, T, H] for each part; where all pairs are kept, nothing is computed."""
        if self._kept is None or any(self._offsets[at] < 0 for at in chosen):
            return [self.trunk.lower(part.ids, part) for part in layout.parts]
        flat = [torch.zeros(part.ids.numel(), self._width, dtype=self._dtype) for part in layout.parts]
        for at, pieces in zip(chosen, layout.places(), strict=True):
            offset = self._offsets[at]
            for part, places in pieces:
                flat[part][places] = self._kept[offset : offset + len(places)]
                offset += len(places)
        shapes = [part.ids.shape for part in layout.parts]
        return [each.reshape(*shape, -1).to(self.trunk.device) for each, shape in zip(flat, shapes, strict=True)]

    @torch.no_grad()
    def log_probs(self, role: str, groups: Sequence[Sequence[int]] | None = None, name: str = "") -> Tensor:
        """log pi(y | x) under a role as it is now, float32[N, 2]; not computed again after a stop.

        The first call of a run keeps the lower layers' outputs too. Several processes share the groups, and write into
        one file; each has all values.

        Args:
            groups: pairs that are computed together, each once; others stay 0. None is all pairs by length.
            name: tells calls of one role with different groups apart.

        Raises:
            PoiseError: a log-probability is not a number.
        """
        file, kept = self._folder / f"log-probs-{role}{name and '-'}{name}.safetensors", self._folder / "lower.bin"
        part = kept.with_suffix(".part")
        state, before = load_state(file) if file.is_file() else None, self._kept
        whole = state is not None and (before is not None or self._open(kept, state["offsets"].tolist(), state["rows"]))
        if agreed(whole) and state is not None:
            values: Tensor = state["log_probs"]
            return values
        self._kept = before
        if groups is None:
            groups = by_length([pair.tokens for pair in self.pairs], 2 * _AT_ONCE)
        values = torch.zeros(len(self.pairs), 2)
        keeping = self._kept is None
        if keeping:
            self._find_room(groups)
            by_first(lambda: _of_size(part, self._rows * self._bytes))
        with (part if keeping else Path(os.devnull)).open("r+b") as stream:
            for chosen in shared_out(groups, self._on_rows):
                layout = self.lay_out(chosen)
                lower = self.lower(chosen, layout)
                if keeping and self._limit:
                    self._keep(stream, lower, chosen, layout)
                values[list(chosen)] = pair_log_probs(self.trunk, lower, layout, role).cpu()
            stream.flush()
            if keeping:
                os.fsync(stream.fileno())
        values = torch.tensor(total(values.flatten().tolist())).reshape(values.shape)
        if not bool(values.isfinite().all()):
            odd = int((~values.isfinite()).any(-1).nonzero()[0, 0])
            where = self.pairs[odd].text.where
            raise PoiseError(f"a log-probability of {role} is not a number", where=where, do="remove it", exit_code=4)
        if keeping:
            by_first(lambda: part.replace(kept))
        done = {"log_probs": values, "offsets": torch.tensor(self._offsets), "rows": self._rows}
        by_first(lambda: save_state(file, done))
        if keeping:
            self._open(kept, self._offsets, self._rows)
        return values

    def _find_room(self, groups: Sequence[Sequence[int]]) -> None:
        """Where the outputs of each pair will stand in the file; -1 where there is no room."""
        self._rows, self._offsets = 0, [-1] * len(self.pairs)
        for at in (at for chosen in groups for at in chosen):
            pair = self.pairs[at]
            rows = pair.tokens + (0 if self._shared else len(pair.prompt))
            if (self._rows + rows) * self._bytes <= self._limit:
                self._offsets[at] = self._rows
                self._rows += rows

    def _keep(self, stream: Any, lower: Sequence[Tensor], chosen: Sequence[int], layout: Layout) -> None:
        """Write what there is room for."""
        flat = [each.reshape(-1, self._width).cpu() for each in lower]
        for at, pieces in zip(chosen, layout.places(), strict=True):
            if self._offsets[at] >= 0:
                states = torch.cat([flat[part][places] for part, places in pieces])
                stream.seek(self._offsets[at] * self._bytes)
                stream.write(states.view(torch.uint8).numpy().data)

    def _open(self, file: Path, offsets: list[int], rows: int) -> bool:
        """Map the file of kept outputs; false when it is not whole."""
        if rows and (not file.is_file() or file.stat().st_size != rows * self._bytes):
            return False
        self._offsets, self._rows = offsets, rows
        if rows:
            flat = torch.from_file(str(file), shared=False, size=rows * self._width, dtype=self._dtype)
            self._kept = flat.view(rows, self._width)
        return True


def _of_size(file: Path, size: int) -> None:
    """A new file of so many bytes, into which several processes can write."""
    with file.open("wb") as stream:
        stream.truncate(size)


def _can_share(trunk: Trunk, pairs: Sequence[EncodedPair]) -> bool:
    """Whether both responses of a pair may stand behind one prompt in this model."""
    window = getattr(trunk.model.config.get_text_config(), "sliding_window", None)
    longest = max(len(pair.prompt) + max(map(len, pair.responses)) for pair in pairs)
    return can_pack(trunk.model) and not (window and longest > window)
