"""Reward and cost of both responses of every pair, by the preference models in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from poise.align.engine.processes import by_first, shared_out, total
from poise.align.engine.rollout import ScoreScale
from poise.align.engine.views import scores_of, shared_passes
from poise.align.train.batches import by_length
from poise.align.train.data import TextPair
from poise.errors import PoiseError
from poise.models.bundled import resolve
from poise.models.checkpoint import load_state, save_state
from poise.models.encoder import ignore
from poise.models.trunk import Trunk, collate
from poise.preference.pairs import tokenize

ROLES = ("reward", "cost")
_FILES = ("roles.safetensors", "template.json", "scale.json")
_SAFE_QUANTILE = 0.25


class Scores(NamedTuple):
    """What a folder of preference models holds.

    Args:
        folder: where.
        roles: tensors of "reward" and "cost".
        template: how a text is put to them, and the shape of their adapters.
        scale: of their scores.
    """

    folder: Path
    roles: dict[str, Any]
    template: dict[str, Any]
    scale: ScoreScale

    def trunk(self, model: str, roles: Sequence[str], heads: Sequence[str], seed: int = 0) -> Trunk:
        """A trunk with these roles, of which "reward" and "cost", where they are among them, are the trained ones.

        Args:
            model: the base model, where the folder does not name one.
        """
        from transformers import AutoConfig

        source, adapted = resolve(self.template.get("model", model)), self.template["adapted_layers"]
        layers = AutoConfig.from_pretrained(source).get_text_config().num_hidden_layers if adapted else 0
        shared, rank = max(0, layers - adapted), self.template["rank"]
        trunk = Trunk(source, roles=roles, scalar_roles=heads, shared_layers=shared, rank=rank, seed=seed)
        for role in ROLES:
            if role in roles:
                trunk.load_role(role, self.roles[role])
        return trunk

    def threshold(self) -> float:
        """The mean cost that the folder chose as its limit, in spreads of the cost model.

        It is what `threshold.json` says; in a folder without one, the quantile 0.25 of the costs of responses labelled
        safe: a mean cost as low as that of the safest quarter of them.

        Raises:
            PoiseError: neither file is there.
        """
        try:
            if (self.folder / "threshold.json").is_file():
                return float(json.loads((self.folder / "threshold.json").read_text(encoding="utf-8"))["threshold"])
            costs = json.loads((self.folder / "safe_costs.json").read_text(encoding="utf-8"))
            return float(np.quantile(costs, _SAFE_QUANTILE))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            where, do = str(self.folder), "give multiplier.threshold"
            raise PoiseError("says nothing of a threshold", where=where, do=do) from error

    def digest(self) -> str:
        """Tells two folders apart."""
        found = hashlib.sha256()
        for name in _FILES:
            found.update((self.folder / name).read_bytes())
        return found.hexdigest()


def open_scores(folder: Path) -> Scores:
    """The preference models in a folder of `poise align preference`, or of a pipeline's stage `preference`.

    Raises:
        PoiseError: a file is missing or damaged.
    """
    try:
        template = json.loads((folder / "template.json").read_text(encoding="utf-8"))
        scale = ScoreScale(**json.loads((folder / "scale.json").read_text(encoding="utf-8")))
        template["adapted_layers"], template["rank"], template["max_prompt_tokens"], template["system"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoiseError(
            "holds no preference models", where=str(folder), do="make them with `poise align preference`"
        ) from error
    roles = load_state(folder / "roles.safetensors")
    if roles is None or not set(ROLES) <= roles.keys():
        raise PoiseError("roles.safetensors has no reward and cost", where=str(folder), do="train both")
    return Scores(folder, roles, template, scale)


@torch.no_grad()
def score_pairs(
    folder: Path, model: str, pairs: Sequence[TextPair], work: Path, on_rows: Callable[[int], object] = ignore
) -> tuple[Tensor, Tensor]:
    """Reward and cost of both responses, float32[N, 2] each; kept in the work folder, so computed once.

    Args:
        folder, model: the preference models, and their base model where the folder names none.

    Raises:
        PoiseError: as `open_scores`; a score is not a number.
    """
    kept = load_state(work / "scores.safetensors") if (work / "scores.safetensors").is_file() else None
    if kept is not None:
        return kept["reward"], kept["cost"]
    scores = open_scores(folder)
    trunk, template = scores.trunk(model, ROLES, ROLES), scores.template
    texts = [(pair, response) for pair in pairs for response in pair.responses]
    limit = template.get("max_response_tokens", trunk.model.config.max_position_embeddings // 2)
    rows = [
        tokenize(trunk, template["system"], pair.prompt, response, template["max_prompt_tokens"], limit)
        for pair, response in texts
    ]
    passes, out = shared_passes(trunk, ROLES), torch.zeros(2, len(rows))
    groups = by_length([len(prompt) + len(response) for prompt, response in rows])
    for chosen in shared_out(groups, on_rows):
        tokens = collate([rows[at][0] for at in chosen], [rows[at][1] for at in chosen], trunk.device)
        lower = trunk.lower(tokens.ids)
        for roles in passes:
            for role, score in zip(roles, scores_of(trunk, tokens, lower, roles), strict=True):
                out[ROLES.index(role), chosen] = score.cpu()
    out = torch.tensor(total(out.flatten().tolist())).reshape(out.shape)
    if not bool(out.isfinite().all()):
        odd = int((~out.isfinite()).any(0).nonzero()[0, 0])
        raise PoiseError("a score is not a number", where=texts[odd][0].where, do="remove the row", exit_code=4)
    reward, cost = scores.scale.reward(out[0]).reshape(-1, 2), scores.scale.cost(out[1]).reshape(-1, 2)
    by_first(lambda: save_state(work / "scores.safetensors", {"reward": reward, "cost": cost}))
    return reward, cost
