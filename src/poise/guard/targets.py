"""From judgements to training targets: each source teaches only what it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from poise.data import Judgement
from poise.harm import Label
from poise.models.heads import LEVELS, K, ModerationTargets


def targets(
    items: Sequence[str], judgements: Mapping[str, Judgement], weight: Sequence[float] | None = None
) -> ModerationTargets:
    """Targets of `items` from the judgement chosen for each.

    A "label" judgement teaches severity and all categories. A "safe" judgement teaches severity >= 1 only; when it
    says safe, also that the higher levels and all categories are absent. An item without judgement teaches nothing.
    """
    categories = torch.full((len(items), K), torch.nan)
    at_least = torch.full((len(items), LEVELS - 1), torch.nan)
    for row, item in enumerate(items):
        judgement = judgements.get(item)
        if judgement is None or judgement.value is None:
            continue
        if judgement.question == "label":
            label = judgement.label()
            categories[row] = category_row(label)
            at_least[row] = torch.tensor([float(label.severity >= level) for level in (1, 2, 3)])
        elif judgement.question == "safe" and judgement.value:
            categories[row], at_least[row] = 0.0, 0.0
        elif judgement.question == "safe":
            at_least[row, 0] = 1.0
    weights = torch.ones(len(items)) if weight is None else torch.tensor(list(weight), dtype=torch.float32)
    return ModerationTargets(categories, at_least, weights)


def category_row(label: Label) -> torch.Tensor:
    """float[K], 1 at the label's categories."""
    row = torch.zeros(K)
    for category in label.categories:
        row[category.index] = 1.0
    return row
