"""Two ways to lay sampled responses out for the model, with the same four questions to ask of them.

`Tokens` has a row for each response, padded on the right. `PackedResponses` computes a prompt once for all its
responses and packs several prompts into a row (`models.packing`): with four responses to a prompt as long as they are,
half the tokens. Answers per token are float[B, T] under `mask` either way, so that no method sees the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poise.models.packing import Group, Packed, pack_for, packed_log_probs, packed_scores
from poise.models.trunk import Tokens, Trunk, last_kept


class PackedResponses(NamedTuple):
    """R responses in packed rows, each with the end token that preference models want to see.

    Args:
        packed: the rows, the appended end tokens among them.
        place: int64[N], where in R * T each of the packed response tokens stands.
        mask: bool[R, T], T the longest response; true at sampled tokens, not at an appended end.
    """

    packed: Packed
    place: Tensor
    mask: Tensor

    def grid(self, values: Tensor) -> Tensor:
        """Values of the packed tokens float[N] -> float[R, T], zero outside the mask."""
        spread = values.new_zeros(self.mask.numel()).index_put((self.place,), values).view(self.mask.shape)
        return torch.where(self.mask, spread, 0.0)


View = Tokens | PackedResponses


def pack_responses(
    trunk: Trunk, batches: Sequence[Tokens], groups: Sequence[Tensor], rows: int
) -> list[tuple[PackedResponses, Tensor]]:
    """Lay right-padded batches out in packed rows.

    Args:
        batches: of one rollout, responses without appended end tokens.
        groups: int64[B] each; responses to one asking of a prompt share a number.
        rows: as many tokens are computed together as in so many padded rows.

    Returns:
        Batches of responses with their groups int64[R], in another order than they came.
    """
    end = trunk.tokenizer.eos_token_id
    prompts: dict[int, list[int]] = {}
    answers: dict[int, list[tuple[list[int], bool]]] = {}
    for tokens, numbers in zip(batches, groups, strict=True):
        lengths = zip(tokens.prompt_length.tolist(), tokens.length.tolist(), strict=True)
        for ids, (start, stop), number in zip(tokens.ids.tolist(), lengths, numbers.tolist(), strict=True):
            prompts[number], response = ids[:start], ids[start:stop]
            cut = response[-1] != end
            answers.setdefault(number, []).append((response + [end] * cut, cut))
    order = [(number, answer) for number in prompts for answer in answers[number]]
    longest = max(len(prompts[number]) + len(answer) for number, (answer, _) in order)
    packs = pack_for(
        trunk, [Group(prompts[n], [answer for answer, _ in answers[n]]) for n in prompts], max_tokens=rows * longest
    )
    return [_placed(packed, [order[number] for number in packed.numbers.tolist()]) for packed in packs]


def _placed(packed: Packed, rows: Sequence[tuple[int, tuple[list[int], bool]]]) -> tuple[PackedResponses, Tensor]:
    device = packed.ids.device
    lengths = torch.tensor([len(answer) for _, (answer, _) in rows], device=device)
    kept = lengths - torch.tensor([int(cut) for _, (_, cut) in rows], device=device)
    width = int(lengths.max())
    first = torch.cumsum(lengths, 0) - lengths  # tokens of a response stand in a row
    column = torch.arange(len(packed.owner), device=device) - first[packed.owner]
    mask = torch.arange(width, device=device)[None] < kept[:, None]
    group = torch.tensor([number for number, _ in rows], device=device)
    return PackedResponses(packed, packed.owner * width + column, mask), group


def with_end(tokens: Tokens, end: int) -> Tokens:
    """The same batch, one column wider, with the end token after every response that lacks it."""
    missing = last_kept(tokens.ids, tokens.length) != end
    ids = torch.nn.functional.pad(tokens.ids, (0, 1))
    rows = missing.nonzero()[:, 0]
    ids[rows, tokens.length[rows]] = end
    return Tokens(ids, tokens.prompt_length, tokens.length + missing.long())


def mask_of(view: View) -> Tensor:
    """bool[B, T], true at sampled tokens."""
    return view.mask if isinstance(view, PackedResponses) else view.response


def lower_of(trunk: Trunk, view: View) -> Tensor:
    """What the layers below the adapters give, to be asked role by role."""
    if isinstance(view, PackedResponses):
        return trunk.lower(view.packed.ids, view.packed)
    return trunk.lower(view.ids)


def log_probs_of(trunk: Trunk, view: View, lower: Tensor, role: str, temperature: float = 1.0) -> Tensor:
    """Log-probability of each sampled token under a role, float32[B, T], zero outside the mask."""
    if isinstance(view, PackedResponses):
        hidden = trunk.upper(lower, role, view.packed)
        return view.grid(packed_log_probs(trunk, view.packed, hidden, temperature))
    return trunk.response_log_probs(trunk.upper(lower, role), view, temperature)


def values_of(trunk: Trunk, view: View, lower: Tensor, role: str) -> Tensor:
    """V_t float[B, T]: a critic's value of the state before token t."""
    if isinstance(view, PackedResponses):
        hidden = trunk.upper(lower, role, view.packed)
        return view.grid(trunk.values(hidden.flatten(0, 1)[view.packed.source], role))
    return values_before(trunk, trunk.upper(lower, role), role)


def scores_of(trunk: Trunk, view: View, lower: Tensor, roles: Sequence[str]) -> list[Tensor]:
    """Score of each role at the end of each response, float32[B]; a right-padded view has its ends appended.

    Args:
        roles: with the same adapter, which runs once.
    """
    if isinstance(view, PackedResponses):
        hidden = trunk.upper(lower, roles[0], view.packed)
        return [packed_scores(trunk, view.packed, hidden, role) for role in roles]
    last = last_kept(trunk.upper(lower, roles[0]), view.length)[:, None]
    return [trunk.values(last, role)[:, 0] for role in roles]


def shared_passes(trunk: Trunk, roles: Sequence[str]) -> list[list[str]]:
    """The roles in order, those together that have the same adapter (a preference model with two heads)."""
    passes: list[tuple[dict[str, Tensor], list[str]]] = []
    for role in roles:
        named = trunk.state_of(role).items()
        body = {name.replace(f".{role}.", "."): tensor for name, tensor in named if not name.startswith("head.")}
        known = next((together for other, together in passes if _equal(body, other)), None)
        if known is None:
            passes.append((body, [role]))
        else:
            known.append(role)
    return [together for _, together in passes]


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def values_before(trunk: Trunk, hidden: Tensor, role: str) -> Tensor:
    """V_t float[B, T]: the critic's value of the state before token t, that is at position t - 1."""
    values = trunk.values(hidden, role)
    return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], 1)
