"""A whole fine-tuning run: from an instruction file to a model folder that appears when it is complete.

While it trains, `.<name>.training` beside the folder holds the settings and the last checkpoint. The same command
goes on from there after any kind of stop; other settings, data or weights are refused by name.
"""

from __future__ import annotations

import platform
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poise import __version__
from poise.align.sft.curves import draw_losses
from poise.align.sft.instructions import BadRowError, Instructions, Message, read_instructions
from poise.align.sft.loss import TokenLoss
from poise.align.sft.templates import Control, Example, control_tokens, encode, set_template
from poise.align.sft.training import Evaluation, Settings, Training, evaluate
from poise.align.sft.weights import Weights, load_tokenizer
from poise.data.folders import disk_error, partial_folder, write_json
from poise.data.resumable import finished, open_work, refuse_foreign, work_folder
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.models.checkpoint import faults_of_the_disk
from poise.models.encoder import ignore
from poise.models.fingerprint import fingerprint

REPORT = "sft.json"


class Watch(NamedTuple):
    """What is told while a run goes on; each does nothing by default.

    Args:
        row: 1 for each row read.
        encoded: 1 for each conversation turned into tokens.
        evaluated: number of held-out examples just looked at.
        step: steps done, all steps, loss.
        note: a line of text.
    """

    row: Callable[[int], object] = ignore
    encoded: Callable[[int], object] = ignore
    evaluated: Callable[[int], object] = ignore
    step: Callable[[int, int, float], object] = lambda done, total, loss: None
    note: Callable[[str], object] = lambda text: None


class Encoded(NamedTuple):
    """Examples by their use, rows dropped by reason, and how many examples were cut at the limit."""

    train: list[Example]
    held_out: list[Example]
    dropped: Counter[str]
    cut: int


def is_held_out(messages: Sequence[Message], share: float, seed: int) -> bool:
    """Whether a conversation is for evaluation: by the hash of its first prompt, so that no prompt is in both parts."""
    prompt = next(message["content"] for message in messages if message["role"] == "user")
    return uniform_seed(seed, prompt, "sft evaluation") < share * 2**63


def encode_all(
    tokenizer: Any, data: Instructions, settings: Settings, on_row: Callable[[int], object] = ignore
) -> Encoded:
    """Token ids of all conversations.

    Raises:
        PoiseError: none is left to train on, or a share is to be held out and none is left for it.
    """
    control: Control = control_tokens(tokenizer)
    parts: tuple[list[Example], list[Example]] = ([], [])
    dropped = Counter(data.dropped)
    for messages, place in zip(data.conversations, data.places, strict=True):
        try:
            example = encode(tokenizer, messages, settings.max_length, control)._replace(where=place)
        except BadRowError as reason:
            dropped[str(reason)] += 1
        else:
            parts[is_held_out(messages, settings.eval_share, settings.seed)].append(example)
        on_row(1)
    train, held_out = parts
    if not train or (settings.eval_share and not held_out):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common()) or "none"
        raise PoiseError(
            f"{len(train):,} examples to train on, {len(held_out):,} held out (rows dropped: {reasons})",
            where="sft",
            do="give more rows, another --max-length or another --eval-share (0 holds none out)",
        )
    return Encoded(train, held_out, dropped, sum(example.cut for part in parts for example in part))


def fine_tune(
    data: Path, model: Path | str, out: Path, settings: Settings, *, save_every: int = 100, watch: Watch | None = None
) -> dict[str, Any]:
    """Fine-tune a causal language model on an instruction file; returns the report that `sft.json` holds.

    Args:
        data: instruction file or folder, see `instructions`.
        model: what `poise.models.bundled.resolve` gives.
        out: the model folder; must not exist, unless the same run made it.
        settings: see `Settings`.
        save_every: steps between checkpoints.
        watch: what is told on the way.

    Raises:
        PoiseError: wrong input, a folder in use, a stopped run with other settings, or a loss that is not finite (exit
            code 4; what was trained before that step is in the work folder).
    """
    watch, settings = watch or Watch(), settings.checked()
    if save_every < 1:
        raise PoiseError(f"save_every is {save_every}", where="sft", do="give at least 1")
    refuse_foreign(out, REPORT, "is no fine-tuned model")
    instructions = read_instructions(data, watch.row)
    tokenizer = load_tokenizer(model)
    set_template(tokenizer, settings.template, str(model))
    encoded = encode_all(tokenizer, instructions, settings, watch.encoded)
    weights = Weights(model, settings.rank if settings.lora else 0, settings.seed)
    identity = {
        **settings._asdict(),
        "data_sha256": instructions.sha256,
        "model": fingerprint(model, weights.revision),
    }
    if (made := finished(out, REPORT, identity, watch.note)) is not None:
        return made
    work = work_folder(out)
    try:
        open_work(work, identity)
        training = _train(weights, encoded, settings, tokenizer.pad_token_id, work, save_every, watch)
        report = _report(training, encoded, weights, identity, str(model))
        _write(out, weights, tokenizer, training, report, encoded)
        shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, out) from error
    return report


def _train(
    weights: Weights, encoded: Encoded, settings: Settings, pad: int, work: Path, save_every: int, watch: Watch
) -> Training:
    """Train, merge and round, and evaluate what will be saved."""
    loss = TokenLoss(weights.model, weights.autocast)
    if settings.packed:
        loss.check_packing(settings.max_length, str(weights.source))
    examples = f"{len(encoded.train):,} examples to train on, {len(encoded.held_out):,} held out"
    watch.note(f"{examples}; {weights.trained:,} of {weights.parameters:,} weights are trained")
    training = Training(
        loss,
        encoded.train,
        encoded.held_out,
        settings,
        pad,
        checkpoint=work / "checkpoint.safetensors",
        save_every=save_every,
        on_step=watch.step,
        on_rows=watch.evaluated,
    )
    training.run()
    weights.finish(merge=not settings.adapter)
    if encoded.held_out:
        last = TokenLoss(weights.model, weights.autocast)
        step, rows = len(training.plan), settings.batch_size
        saved = evaluate(last, encoded.held_out, step, rows, pad, watch.evaluated)
        training.evaluations.append(saved)
    return training


def _report(
    training: Training, encoded: Encoded, weights: Weights, identity: dict[str, Any], model: str
) -> dict[str, Any]:
    import peft
    import torch
    import transformers

    tokens = sum(entry["tokens"] for entry in training.steps)
    return {
        "identity": identity,
        "base_model": model,
        "rows": {
            "train": len(encoded.train),
            "held_out": len(encoded.held_out),
            "cut": encoded.cut,
            "dropped": dict(encoded.dropped.most_common()),
        },
        "weights": {"all": weights.parameters, "trained": weights.trained, "saved_as": str(weights.saved_dtype)},
        "tokens": int(tokens),
        "seconds": round(training.seconds, 2),
        "tokens_per_second": round(tokens / training.seconds, 1),
        "evaluations": [_json(entry) for entry in training.evaluations],
        "steps": training.steps,
        "versions": {
            "poise": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "python": platform.python_version(),
        },
    }


def _json(entry: Evaluation) -> dict[str, float]:
    return dict(entry._asdict())


def _write(
    out: Path, weights: Weights, tokenizer: Any, training: Training, report: dict[str, Any], encoded: Encoded
) -> None:
    partial = partial_folder(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    whole = next((example for part in encoded[:2] for example in part if not example.cut), None)
    try:
        with faults_of_the_disk():
            weights.save(partial, tokenizer, None if whole is None else whole.ids[-1])
        draw_losses(partial / "loss.svg", training.steps, training.evaluations)
        write_json(partial / REPORT, report)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
