"""Answers of a trained policy to some prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from poise.align.train.policies import open_policy, read_report
from poise.data.rows import Sampling, uniform_seed
from poise.errors import PoiseError
from poise.models.encoder import ignore
from poise.models.generate import Request, chat_ids, generate


class Answer(NamedTuple):
    """Args: prompt; text, None where nothing was sampled; note, why not, or that the limit cut it, or empty."""

    prompt: str
    text: str | None
    note: str


def sample_answers(
    folder: Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    on_rows: Callable[[int], object] = ignore,
) -> list[Answer]:
    """One answer to each prompt, under the system message and the template that the policy was trained with.

    Args:
        folder: of a finished run.
        temperature: 0 takes the most likely token.
        seed: chance is a hash of it, the prompt and how often the prompt came before.

    Raises:
        PoiseError: no prompt, or the run can't be opened.
    """
    if not prompts:
        raise PoiseError("no prompt is given", where="sample", do="give --prompt or --prompts")
    trunk, system = open_policy(folder), read_report(folder)["identity"]["system"]
    before = [] if system is None else [{"role": "system", "content": system}]
    requests = []
    for at, prompt in enumerate(prompts):
        chance = uniform_seed(seed, "sample", prompt, str(prompts[:at].count(prompt)))
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=chance)
        requests.append(Request(chat_ids(trunk, [*before, {"role": "user", "content": prompt}]), sampling))
    out = []
    for prompt, sampled in zip(prompts, generate(trunk, requests, role="actor", on_rows=on_rows), strict=True):
        text = None if sampled.reason else trunk.tokenizer.decode(sampled.ids, skip_special_tokens=True)
        out.append(Answer(prompt, text, sampled.reason or ("" if sampled.finished else "cut at the limit")))
    return out
