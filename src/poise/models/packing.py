"""Rows that hold several prompts with all their responses, each prompt computed once and hardly any padding.

A group is a prompt and its responses (a pair to compare, the samples of one prompt). In a row it stands as

    prompt  response 1  response 2  ...

and the attention mask is a tree: a response sees its prompt and itself, never a sibling or another group; positions
of every response go on from its prompt's end. So every state equals that of the prompt and the response alone, to
rounding, while a pair with a prompt as long as its responses costs three quarters of two rows.

Rows are filled evenly, then cut into batches of rows of near-equal length, so that padding stays under 5 % of a batch
whatever the lengths are; under 40 % on a GPU, where one more batch costs more than that. A group too long for a row is
cut between responses, its prompt computed again.

Whether a model takes such rows is tried on the model itself (`can_pack`); for one that does not, `pack(..., shared=
False)` gives batches of the same kind, right-padded with a response to a row, and all that reads them stays as it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from poise.errors import PoiseError
from poise.models.log_probs import head_weight, own_format, token_log_probs

if TYPE_CHECKING:
    from poise.models.trunk import Trunk

WIDTH = 256
"""Tokens of a row: attention costs their square, so a wide row wastes what a narrow one pads."""
_TRIED = 2  # numbers of rows that are tried above and below the obvious one
_ATTENTION = 2048  # tokens of a row at which its attention costs as much as all else, in a model some 300 to 600 wide


class _Machine(NamedTuple):
    """Args: batch: what a batch costs besides its tokens, in tokens; filled: least share of a batch that is real."""

    batch: int
    filled: float


_CPU = _Machine(batch=64, filled=0.95)
_GPU = _Machine(batch=8192, filled=0.6)  # launching a batch: 70 ms on an H200, 4,000 tokens of 1 B weights


class Group(NamedTuple):
    """Token ids of a prompt with its template, and of the responses to it; none of them empty."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]


class Packed(NamedTuple):
    """B rows of T tokens with N response tokens of R responses.

    Args:
        ids: int64[B, T], padded with 0 on the right.
        positions: int64[B, T]; those of a response go on from its prompt's end.
        mask: bool[B, 1, T, T], entry (i, j) true where token i sees token j; None when plain causal attention does.
        source: int64[N], where in B * T the state stands that predicts each response token.
        target: int64[N], where in B * T the predicted token stands.
        owner: int64[N], the response 0..R-1 that each of them belongs to; tokens of a response stand in a row.
        last: int64[R], where in B * T the last token of each response stands.
        numbers: int64[R], the number of each response among all that `pack` was given, in order of the groups.
        real: tokens that are no padding.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor | None
    source: Tensor
    target: Tensor
    owner: Tensor
    last: Tensor
    numbers: Tensor
    real: int

    @property
    def padding(self) -> float:
        """Share of B * T that is padding."""
        return 1 - self.real / self.ids.numel()

    @property
    def targets(self) -> Tensor:
        """Ids of the response tokens, int64[N]."""
        return self.ids.flatten()[self.target]

    def sums(self, values: Tensor, average: bool = False) -> Tensor:
        """Sums (or means) over the tokens of each response: float[N] -> float[R]."""
        total = values.new_zeros(len(self.last)).index_add(0, self.owner, values)
        return total / torch.bincount(self.owner, minlength=len(self.last)) if average else total

    def padded(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """A row for each response, as the losses take them: float[N] -> float[R, L], 0 at padding, and bool[R, L]."""
        count = torch.bincount(self.owner, minlength=len(self.last))
        mask = torch.arange(int(count.max()), device=count.device) < count[:, None]
        return values.new_zeros(mask.shape).masked_scatter(mask, values), mask

    def inputs(self, model: Any) -> dict[str, Any]:
        """Keywords for a Transformers decoder: positions and mask, in the form that its attention takes.

        Raises:
            PoiseError: rows hold several responses and this model can't keep them apart.
        """
        window = _window(model)
        beyond = window is not None and int(self.positions.max()) >= window
        if self.mask is not None and (beyond or not can_pack(model)):
            raise PoiseError(
                f"a model of type {model.config.model_type!r} can't keep the responses of a packed row apart",
                where="packing",
                do="pack with shared=False",
            )
        return _inputs(self, model)


def _inputs(packed: Packed, model: Any) -> dict[str, Any]:
    mask = packed.mask
    if mask is None:
        return {"use_cache": False}
    if getattr(model.config, "_attn_implementation", "") != "sdpa":
        autocast = torch.is_autocast_enabled(mask.device.type)
        dtype = torch.get_autocast_dtype(mask.device.type) if autocast else model.dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
    return {"attention_mask": mask, "position_ids": packed.positions, "use_cache": False}


class _Part(NamedTuple):
    """Some responses of a group, `first` being the number of the first of them."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    first: int

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))


def pack(
    groups: Sequence[Group],
    max_tokens: int,
    device: torch.device,
    *,
    width: int = WIDTH,
    shared: bool = True,
) -> list[Packed]:
    """Batches of at most `max_tokens` tokens (padding counted) that hold every response once.

    Args:
        groups: prompts with their responses; the same prompt in two groups is computed twice.
        max_tokens: B * T of a batch, what bounds its memory.
        device: where the tensors go.
        width: about so many tokens to a row; never more than `max_tokens`.
        shared: False gives every response a row of its own, for models that can't tell groups apart.

    Raises:
        PoiseError: a prompt or response is empty, or a prompt with one of its responses exceeds `max_tokens`.
    """
    parts, first = [], 0
    for at, group in enumerate(groups):
        room = min(max_tokens, max(width, 4 * len(group.prompt))) if shared else 0
        parts += _cut(group, first, room, max_tokens, at)
        first += len(group.responses)
    machine = _GPU if device.type == "cuda" else _CPU
    batches = _arrange(parts, width if shared else 0, max_tokens, machine)
    return [_collate(batch, device, shared) for batch in batches]


def _cut(group: Group, first: int, room: int, max_tokens: int, at: int) -> list[_Part]:
    """The group in parts of at most `room` tokens, or of one response."""
    prompt, parts = group.prompt, list[_Part]()
    if not len(prompt) or not group.responses or not all(map(len, group.responses)):
        what = "prompt" if not len(prompt) else "response"
        raise PoiseError(f"group {at} has an empty {what}", where="packing", do="leave it out")
    filled = 0
    for number, response in enumerate(group.responses, first):
        if len(prompt) + len(response) > max_tokens:
            raise PoiseError(
                f"a prompt of {len(prompt)} and a response of {len(response)} tokens exceed a batch of {max_tokens}",
                where=f"packing, group {at}",
                do="shorten them or raise the limit of tokens",
            )
        if not parts or filled + len(response) > room:
            parts.append(_Part(prompt, [], number))
            filled = len(prompt)
        parts[-1] = parts[-1]._replace(responses=[*parts[-1].responses, response])
        filled += len(response)
    return parts


def _arrange(parts: Sequence[_Part], width: int, most: int, machine: _Machine) -> list[list[list[_Part]]]:
    """Batches of rows: the cheapest of some numbers of rows about `width` long; with width 0 a part to a row."""
    single = _batches([[part] for part in parts], most, machine)
    if not width:
        return single
    least = -(-sum(part.length for part in parts) // min(width, most))
    counts = range(max(1, least - _TRIED), min(len(parts), least + _TRIED) + 1)
    tried = [_batches(rows, most, machine) for count in counts if (rows := _fill(parts, count, most)) is not None]
    return min(tried or [single], key=lambda batches: _cost(batches, machine))


def _fill(parts: Sequence[_Part], count: int, most: int) -> list[list[_Part]] | None:
    """Rows of near-equal length: longest first, each part goes to the row that is shortest yet; None if one is full."""
    heap = [(0, number) for number in range(count)]
    rows: list[list[_Part]] = [[] for _ in heap]
    for part in sorted(parts, key=lambda part: -part.length):
        length, number = heap[0]
        if length + part.length > most:
            return None
        rows[number].append(part)
        heapq.heapreplace(heap, (length + part.length, number))
    return [row for row in rows if row]


def _batches(rows: Sequence[list[_Part]], max_tokens: int, machine: _Machine) -> list[list[list[_Part]]]:
    """Rows of near-equal length together, longest first; a batch ends where it would be too large or too empty."""
    out: list[list[list[_Part]]] = []
    top = real = 0
    for row in sorted(rows, key=_length, reverse=True):
        size = _length(row)
        slots = (len(out[-1]) + 1) * top if out else 0
        if not out or slots > max_tokens or real + size < machine.filled * slots:
            out.append([])
            top, real = size, 0
        out[-1].append(row)
        real += size
    return out


def _length(row: Sequence[_Part]) -> int:
    return sum(part.length for part in row)


def _cost(batches: Sequence[Sequence[Sequence[_Part]]], machine: _Machine) -> float:
    """About what the batches take to compute, in tokens without attention."""
    sizes = [(len(rows), max(map(_length, rows))) for rows in batches]
    return sum(count * wide * (1 + wide / _ATTENTION) + machine.batch for count, wide in sizes)


def _collate(rows: Sequence[Sequence[_Part]], device: torch.device, shared: bool) -> Packed:
    width = max(sum(part.length for part in row) for row in rows)
    ids, positions = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    group, branch = (torch.full((len(rows), width), -1) for _ in range(2))
    source, target, owner, last, numbers = (list[int]() for _ in range(5))
    real = 0
    for row, parts in enumerate(rows):
        at = 0
        for number, part in enumerate(parts):
            start, size = at, len(part.prompt)
            base, end = row * width, start + part.length
            group[row, start:end] = number
            ids[row, start:end] = torch.tensor([t for piece in (part.prompt, *part.responses) for t in piece])
            positions[row, start : start + size] = torch.arange(size)
            at += size
            for index, response in enumerate(part.responses):
                stop = at + len(response)
                branch[row, at:stop] = index
                positions[row, at:stop] = torch.arange(size, size + len(response))
                target += range(base + at, base + stop)
                source += [base + start + size - 1, *range(base + at, base + stop - 1)]
                owner += [len(last)] * len(response)
                last.append(base + stop - 1)
                numbers.append(part.first + index)
                at = stop
        real += at
    mask = None
    if shared:
        same = group[:, :, None] == group[:, None, :]
        seen = (branch[:, None, :] == -1) | (branch[:, :, None] == branch[:, None, :])
        mask = (same & seen & torch.ones(width, width, dtype=torch.bool).tril())[:, None].to(device)
    places = [torch.tensor(each).to(device) for each in (source, target, owner, last, numbers)]
    return Packed._make([ids.to(device), positions.to(device), mask, *places, real])


def pack_for(trunk: Trunk, groups: Sequence[Group], max_tokens: int, *, width: int = WIDTH) -> list[Packed]:
    """`pack`, shared where the trunk's model can; see there."""
    longest = max((len(g.prompt) + len(r) for g in groups for r in g.responses), default=0)
    window = _window(trunk.model)
    shared = can_pack(trunk.model) and not (window and longest > window)
    return pack(groups, max_tokens, trunk.device, width=width, shared=shared)


def packed_log_probs(trunk: Trunk, packed: Packed, hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each response token, float32[N]; `packed.sums` makes those of the responses of them.

    Args:
        trunk: whose vocabulary head counts.
        packed: the batch.
        hidden: final states [B, T, H] of it.
        temperature: the one that the responses were sampled with.

    Raises:
        PoiseError: the model does more to its logits than its head's product.
    """
    return token_log_probs(hidden.flatten(0, 1)[packed.source], head_weight(trunk.model), packed.targets, temperature)


def packed_scores(trunk: Trunk, packed: Packed, hidden: Tensor, role: str) -> Tensor:
    """Scalar head of `role` at the last token of each response: [B, T, H] -> float32[R]."""
    return trunk.values(hidden.flatten(0, 1)[packed.last], role)


def can_pack(model: Any) -> bool:
    """Whether the states of a packed row are those of plain rows, tried once on each model.

    Right are models whose decoder takes `position_ids` and a mask of four dimensions and mixes tokens by attention
    alone; wrong are those with a recurrent state, or with positions that are counted from the row's start.
    """
    if model not in _packs:
        _packs[model] = _try_packing(model)
    return _packs[model]


_packs: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _window(model: Any) -> int | None:
    """Tokens that the attention looks back, None for all: a given mask takes the place of the window's."""
    window: int | None = getattr(model.config.get_text_config(), "sliding_window", None)
    return window


@torch.no_grad()
def _try_packing(model: Any) -> bool:
    """A response beside one sibling and group, beside others, and alone in a plain row."""
    size, device = model.config.get_text_config().vocab_size, next(model.parameters()).device
    prompt, answer, *others = ([(7 * at + start) % size for at in range(9)] for start in (3, 5, 11, 2, 8, 6))
    rows = [[Group(others[i], [others[i + 1]]), Group(prompt, [others[i], answer])] for i in (0, 2)]
    was_training = model.training
    model.eval()
    try:
        states = []
        plain = pack([Group(prompt, [answer])], 64, device, shared=False)
        for packed in [pack(row, 64, device, width=64)[0] for row in rows] + plain:
            with own_format(model):
                hidden = model.get_decoder()(input_ids=packed.ids, **_inputs(packed, model)).last_hidden_state
            states.append(hidden.flatten(0, 1)[packed.source[packed.numbers[packed.owner] == packed.numbers.max()]])
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return False
    finally:
        model.train(was_training)
    first, second, alone = (state.float() for state in states)
    size_of = alone.norm()
    return bool((first - second).norm() < 1e-3 * size_of and (first - alone).norm() < 2e-2 * size_of)
