"""A whole run of an online method: prompts, the preference models' folder and a recipe become a run folder.

The trunk is that of the preference models: same base model, same adapted layers, same rank, same system message, so
that reward and cost are asked as they were trained. The folder is as that of an offline run, with the looks of the
evaluation beside (`evaluation.jsonl`, `samples-<step>.txt`).
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poise.align.algorithms.repo import RePO
from poise.align.engine import (
    ONLINE,
    PTX,
    EvalPrompt,
    Evaluation,
    LoopSettings,
    OnlineResult,
    online_roles,
    train_online,
)
from poise.align.engine.constraints import ONE
from poise.align.engine.processes import by_first
from poise.align.multiplier import Multiplier, Multipliers
from poise.align.sft import Instructions, read_instructions
from poise.align.sft.templates import control_tokens
from poise.align.train.batches import check_template
from poise.align.train.constraints import Plan, Spoken, planned, spoken_of, told_of
from poise.align.train.curves import draw_online
from poise.align.train.data import Prompts, is_held_out, read_prompts
from poise.align.train.folders import (
    Watch,
    about,
    cant_be_written,
    shown,
    write_run,
)
from poise.align.train.online_sections import CRITIC_FREE, multiplier_of
from poise.align.train.policies import REPORT, policy_of
from poise.align.train.ptx_rows import PTXRows, ptx_rows
from poise.align.train.recipe import Recipe
from poise.align.train.scoring import Scores, open_scores
from poise.data import load_seeds, text_id, uniform_seed
from poise.data.resumable import finished, open_work, refuse_foreign, work_folder
from poise.errors import PoiseError
from poise.models.bundled import resolve
from poise.models.fingerprint import fingerprint
from poise.models.generate import chat_ids
from poise.models.recompute import recompute_layers
from poise.models.trunk import Trunk
from poise.models.whole_actor import WholeActor
from poise.preference.pairs import conversation


class _Asked(NamedTuple):
    """Args: train, held_out and benign prompts in token ids; left out, (rule, place) each; cut, how many were."""

    train: list[EvalPrompt]
    held_out: list[EvalPrompt]
    benign: list[EvalPrompt]
    left_out: list[tuple[str, str]]
    cut: int


class _Bound(NamedTuple):
    """What holds the costs. Args: plan and spoken, of a recipe with several constraints."""

    multiplier: Multiplier | Multipliers | None
    plan: Plan | None = None
    spoken: Spoken | None = None

    def notes(self, prompts: int) -> Iterator[str]:
        """A line about each constraint."""
        for name, count in (self.spoken.counts if self.spoken else {}).items():
            told = f"{count['unknown']:,} of {prompts:,} do not tell, and fall outside it" if count["unknown"] else ""
            line = f"constraint {name}: {count['train']:,} prompts to train on, {count['held_out']:,} held out"
            yield f"{line}; {told}" if told else line


def train_online_run(recipe: Recipe, out: Path, watch: Watch | None = None) -> dict[str, Any]:
    """Train by an online method; returns what `report.json` holds.

    Args, raises: as `runs.train_offline`; and the folder of scores holds no preference models.
    """
    watch = watch or Watch()
    refuse_foreign(out, REPORT, "is no run of `poise align train`")
    data = recipe.data
    read = read_prompts(data.paths, form=data.format, on_row=lambda n: watch.rows("reading", n))
    section = recipe.parts["ptx"]
    instructions = None if section is None else read_instructions(Path(section.files))
    scores = open_scores(Path(recipe.head.scores or ""))
    source = _source(recipe, scores)
    method = recipe.part(ONLINE[recipe.method.name])
    plan = planned(recipe, scores)
    roles = online_roles(method, plan.asked) if plan else online_roles(method)
    trunk = _trunk(recipe, scores, roles, source)
    if recipe.parts["rollout"].gradient_checkpointing:
        recompute_layers(trunk)
    if plan is not None:
        plan.load(trunk)
        scores = scores._replace(scale=plan.scale(scores.scale))
    identity = recipe.settings() | {
        "data_sha256": read.sha256,
        "scores": scores.digest(),
        **_limits(recipe, scores, method, plan),
        "system": scores.template["system"],
        "model": fingerprint(source, getattr(trunk.model.config, "_commit_hash", None)),
        **({} if instructions is None else {"ptx_sha256": instructions.sha256}),
    }
    if (report := finished(out, REPORT, identity, watch.note)) is not None:
        return report
    asked, ptx = _asked(recipe, trunk, scores, read), _ptx(recipe, trunk, scores, instructions)
    bound = _bound(recipe, plan, asked, read, identity.get("threshold"))
    watch.note(f"{len(asked.train):,} prompts to train on, {len(asked.held_out):,} held out")
    for line in bound.notes(len(asked.train) + len(asked.held_out)):
        watch.note(line)
    work = work_folder(out)
    try:
        by_first(lambda: open_work(work, identity))
        return _run(recipe, trunk, scores, method, bound, asked, ptx, out, identity, watch)
    except OSError as error:
        raise cant_be_written(error, work) from error


def _run(
    recipe: Recipe,
    trunk: Trunk,
    scores: Scores,
    method: Any,
    bound: _Bound,
    asked: _Asked,
    ptx: PTXRows | None,
    out: Path,
    identity: dict[str, Any],
    watch: Watch,
) -> dict[str, Any]:
    work, rollout, look, section = work_folder(out), *(recipe.parts[name] for name in ("rollout", "evaluation", "ptx"))
    settings = rollout.model_dump(exclude={"save_every", "center_advantages", "gradient_checkpointing", "weights"})
    evaluation = Evaluation(
        asked.held_out, asked.benign, look.every, work / "looks", look.max_new_tokens, seed=recipe.head.seed
    )
    started = time.perf_counter()
    with shown(recipe, work, watch) as show:

        def on_step(row: dict[str, float]) -> None:
            show(row)
            watch.step("actor", int(row["step"]) + 1, rollout.steps, row["loss_actor"])

        result = train_online(
            trunk,
            [(prompt.id, prompt.ids) for prompt in asked.train],
            method,
            bound.multiplier,
            scores.scale,
            LoopSettings(**settings, center_advantages=_centred(recipe), seed=recipe.head.seed),
            checkpoint=work / "checkpoint.safetensors",
            checkpoint_every=rollout.save_every,
            on_step=on_step,
            constraints=bound.spoken.constraints if bound.spoken else ONE,
            evaluation=evaluation if look.every and asked.held_out else None,
            ptx=None if ptx is None else PTX(ptx.rows, section.coefficient, section.rows_per_step),
        )
    history = [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in result.history]
    policy = policy_of(trunk)
    report = _report(recipe, asked, result, history, identity) | policy.told
    if ptx is not None:
        report["rows"]["ptx"] = ptx.told
    if bound.plan is not None and bound.spoken is not None:
        report["constraints"] = told_of(bound.plan, bound.spoken.counts, history)
    report["seconds_of_this_sitting"] = round(time.perf_counter() - started, 2)

    def more(folder: Path) -> None:
        draw_online(folder / "curves.svg", history, identity.get("threshold"), bound.plan.limits if bound.plan else {})
        if (work / "looks").is_dir():
            shutil.copytree(work / "looks", folder, dirs_exist_ok=True)

    write_run(out, recipe, trunk, policy, history, asked.left_out, report, more)
    return report


def _report(
    recipe: Recipe, asked: _Asked, result: OnlineResult, history: list[dict[str, float]], identity: dict[str, Any]
) -> dict[str, Any]:
    return about(recipe, identity) | {
        "rows": {
            "train": len(asked.train),
            "held_out": len(asked.held_out),
            "prompts_cut": asked.cut,
            "left_out": dict(Counter(rule for rule, _ in asked.left_out).most_common()),
        },
        "evaluations": result.evaluations,
        "steps": len(history),
        "first_step": history[0],
        "last_step": history[-1],
        "seconds": {
            key: round(sum(row[key] for row in result.history), 2)
            for key in ("seconds_rollout", "seconds_scoring", "seconds_update")
        },
    }


def _source(recipe: Recipe, scores: Scores) -> Path | str:
    """The base model, which is that of the preference models.

    Raises:
        PoiseError: the recipe names another one.
    """
    mine, theirs = (resolve(name) for name in (recipe.head.model, scores.template.get("model", recipe.head.model)))
    if mine != theirs:
        raise PoiseError(
            f"model is {recipe.head.model!r}, the preference models are of {scores.template['model']!r}",
            where=str(scores.folder),
            do="an online method needs one base model for all roles: name theirs, or train them on yours",
        )
    return mine


def _trunk(recipe: Recipe, scores: Scores, roles: Sequence[str], source: Path | str) -> Trunk:
    """All roles on one trunk, or the actor as a model of its own beside it, where all its weights are trained."""
    scored = roles[1:]
    if recipe.parts["rollout"].weights == "adapter":
        return scores.trunk(recipe.head.model, roles, scored, recipe.head.seed)
    return WholeActor(scores.trunk(recipe.head.model, scored, scored, recipe.head.seed), source)


def _centred(recipe: Recipe) -> bool:
    """Whether the loop subtracts the mean over a prompt's responses; critic-free advantages are centred already."""
    rollout = recipe.parts["rollout"]
    if rollout.center_advantages is not None:
        return bool(rollout.center_advantages)
    return rollout.responses_per_prompt > 1 and recipe.method.name not in CRITIC_FREE


def _limits(recipe: Recipe, scores: Scores, method: Any, plan: Plan | None) -> dict[str, Any]:
    """The part of the identity that is about constraints: one threshold (None for PPO, which has none), or each one."""
    if plan is not None:
        return plan.identity(recipe.parts["constraints"])
    if recipe.method.name == "ppo":
        return {"threshold": None}
    if isinstance(method, RePO):
        return {"threshold": method.threshold}
    given: float | None = recipe.parts["multiplier"].threshold
    return {"threshold": scores.threshold() if given is None else given}


def _bound(recipe: Recipe, plan: Plan | None, asked: _Asked, read: Prompts, threshold: float | None) -> _Bound:
    """Multipliers, and the prompts that they are about."""
    method = recipe.method.name
    if plan is not None:
        return _Bound(plan.multiplier(method), plan, spoken_of(plan, asked.train, asked.held_out, read.harm))
    return _Bound(None if threshold is None else multiplier_of(recipe.parts["multiplier"], method, threshold))


def _asked(recipe: Recipe, trunk: Trunk, scores: Scores, read: Prompts) -> _Asked:
    """Prompts in token ids under the template of the preference models."""
    check_template(trunk)
    data, look, seed = recipe.data, recipe.parts["evaluation"], recipe.head.seed
    control, left_out, limit = (
        control_tokens(trunk.tokenizer),
        list(read.left_out),
        scores.template["max_prompt_tokens"],
    )
    parts: tuple[list[EvalPrompt], list[EvalPrompt]] = ([], [])
    texts = sorted(read.texts, key=lambda text: uniform_seed(seed, text, "alignment rows"))[: data.rows or None]
    cut = 0
    for text in texts:
        if any(token in text for token in control.texts):
            left_out.append(("special-token", text_id("p", text)))
            continue
        ids = chat_ids(trunk, conversation(scores.template["system"], text))
        cut += len(ids) > limit
        parts[is_held_out(text, data.held_out, seed)].append(EvalPrompt(text_id("p", text), text, ids[-limit:]))
    train, held_out = parts
    if not train or (data.held_out and not held_out):
        what = f"{len(train):,} prompts to train on, {len(held_out):,} held out"
        raise PoiseError(what, where="data", do="give more rows or another data.held_out (0 holds none out)")
    lookalikes = [p.prompt for p in load_seeds().prompts if p.kind == "lookalike"]
    chosen = sorted(lookalikes, key=lambda text: uniform_seed(seed, text, "benign"))[: look.benign]
    benign = [
        EvalPrompt(text_id("p", text), text, chat_ids(trunk, conversation(scores.template["system"], text))[-limit:])
        for text in chosen
    ]
    return _Asked(train, held_out[: look.prompts], benign, left_out, cut)


def _ptx(recipe: Recipe, trunk: Trunk, scores: Scores, instructions: Instructions | None) -> PTXRows | None:
    """The rows of the PTX term, asked as the rollouts' prompts; answers may be twice as long as theirs."""
    if instructions is None:
        return None
    template, longest = scores.template, 2 * recipe.parts["rollout"].max_new_tokens
    return ptx_rows(trunk, instructions, template["system"], template["max_prompt_tokens"], longest)
