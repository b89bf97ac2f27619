"""`poise align`: training that makes and aligns models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from poise.align.sft import Settings
    from poise.pipeline.progress import Progress

app = typer.Typer(help="Make and align models.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Make and align models."""


@app.command()
def sft(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Instruction file, or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new model folder.")],
    model: Annotated[str, typer.Option(help="Bundled name, model folder or hub id.")] = "smollm2-135m-instruct",
    lora: Annotated[bool, typer.Option("--lora/--full", help="Train low-rank adapters, or all weights.")] = False,
    rank: Annotated[int, typer.Option(help="Rank of the adapters.")] = 16,
    adapter: Annotated[bool, typer.Option("--adapter", help="Save the adapters alone, not merged.")] = False,
    template: Annotated[
        Literal["chat", "pku"], typer.Option(help="The model's chat template, or the one of safe-rlhf.")
    ] = "chat",
    packed: Annotated[bool, typer.Option("--packed/--padded", help="Several examples in a row, or one.")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 3,
    max_steps: Annotated[int, typer.Option(help="Stop after so many steps; 0 is no limit.")] = 0,
    learning_rate: Annotated[
        float, typer.Option(help="Top of the cosine; 0 means 2e-5 with --full, 2e-4 with --lora.")
    ] = 0.0,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = 0.03,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Rows of a micro-batch.")] = 4,
    accumulate: Annotated[int, typer.Option(help="Micro-batches of a step.")] = 8,
    max_length: Annotated[int, typer.Option(help="Most tokens of an example, and of a packed row.")] = 512,
    eval_share: Annotated[float, typer.Option(help="Share of the prompts held out to measure the loss.")] = 0.05,
    eval_every: Annotated[int, typer.Option(help="Also evaluate every so many steps; 0: at each epoch's end.")] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the order, the held-out share and the adapters.")] = 42,
) -> None:
    """Fine-tune a causal language model on instructions; run it again to go on after a stop.

    The defaults are those of the script that makes the paper's responders (safe-rlhf, scripts/sft.sh).
    """
    from poise.align.sft import Settings

    settings = Settings(
        lora=lora,
        rank=rank,
        adapter=adapter,
        template=template,
        packed=packed,
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        clip=clip,
        batch_size=batch_size,
        accumulate=accumulate,
        max_length=max_length,
        eval_share=eval_share,
        eval_every=eval_every,
        seed=seed,
    )
    _fine_tune(data, model, out, settings, save_every)


class _Bars:
    """A line of progress for each kind of work; that of the training stays while it is evaluated."""

    def __init__(self) -> None:
        self._open: dict[str, Progress[Any]] = {}
        self._first = 0

    def rows(self, what: str, rows: int) -> None:
        """So many rows more are read, encoded or evaluated."""
        from poise.pipeline import progress

        if what not in self._open:
            self._close(set(self._open) - {"training"})
            self._open[what] = progress(iter(()), unit="rows", what=what)
        self._open[what].update(rows)

    def step(self, done: int, total: int, loss: float) -> None:
        """Training came to this step; the first call tells where it starts."""
        from poise.pipeline import progress

        self._close(set(self._open) - {"training"})
        if "training" not in self._open:
            self._first = done
            what = f"training from step {done:,}" if done else "training"
            self._open["training"] = progress(total - done, unit="steps", what=what)
        bar = self._open["training"]
        bar.set(loss=loss)
        bar.update(done - self._first - bar.n)

    def close(self) -> None:
        """Take all lines off."""
        self._close(set(self._open))

    def _close(self, names: set[str]) -> None:
        for name in names:
            self._open.pop(name).close()


def _fine_tune(data: Path, model: str, out: Path, settings: Settings, save_every: int) -> None:
    """Run it under a lock with a line of progress, and say what came out."""
    import shutil

    from poise.align.sft import Watch, fine_tune
    from poise.data.resumable import work_folder
    from poise.models.bundled import resolve
    from poise.pipeline.lock import locked

    settings = settings.checked()
    source = resolve(model)
    work, bars = work_folder(out), _Bars()
    work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        watch = Watch(
            row=lambda rows: bars.rows("reading", rows),
            encoded=lambda rows: bars.rows("encoding", rows),
            evaluated=lambda rows: bars.rows("evaluating", rows),
            step=bars.step,
            note=typer.echo,
        )
        try:
            report = fine_tune(data, source, out, settings, save_every=save_every, watch=watch)
        finally:
            bars.close()
            if not (work / "settings.json").is_file():  # nothing was begun
                shutil.rmtree(work, ignore_errors=True)
    _show(report, out)


def _show(report: dict[str, Any], out: Path) -> None:
    rows = report["rows"]
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in rows["dropped"].items()) or "none"
    typer.echo(f"rows: {rows['train']:,} trained on, {rows['held_out']:,} held out, {rows['cut']:,} cut")
    typer.echo(f"rows dropped: {dropped}")
    steps, evaluations = report["steps"], report["evaluations"]
    tenth = max(1, len(steps) // 10)
    first, last = _mean_loss(steps[:tenth]), _mean_loss(steps[-tenth:])
    typer.echo(f"training loss: {first:.4f} -> {last:.4f} (first and last tenth of {len(steps):,} steps)")
    if evaluations:
        before, after = evaluations[0], evaluations[-1]
        words = f"loss {before['loss']:.4f} -> {after['loss']:.4f}"
        typer.echo(f"held out: {words}, perplexity {before['perplexity']:.2f} -> {after['perplexity']:.2f}")
    typer.echo(f"speed: {report['tokens_per_second']:,.0f} tokens/s over {report['seconds']:,.0f} s of training")
    typer.echo(f"model: {out}")


def _mean_loss(steps: list[dict[str, float]]) -> float:
    """Loss per learnt token over some steps."""
    targets = sum(entry["targets"] for entry in steps)
    return sum(entry["loss"] * entry["targets"] for entry in steps) / targets
