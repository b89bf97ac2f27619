"""`poise data`, continued: the verbs that change tables or make them: from near-duplicates to the release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from poise.cli.data import Folder, Force, FormatName, Mapping, OptionalOut, Out, Seed, app, opened, rows_done
from poise.errors import PoiseError

On = Annotated[Literal["prompt", "answer"], typer.Option(help="Compare prompts, or prompt and response together.")]


@app.command()
def merge(
    paths: Annotated[list[Path], typer.Argument(metavar="TABLES...", help="Tables, in this order.")],
    out: Out,
    force: Force = False,
) -> None:
    """Put the rows of several tables into one folder."""
    from poise.data.tables import merge_tables, open_tables

    tables = merge_tables([open_tables(path) for path in paths], out, replace=force)
    typer.echo(f"{out}: " + ", ".join(f"{unit} {rows:,}" for unit, rows in tables.rows.items()))


@app.command()
def dedup(
    path: Folder,
    on: On = "prompt",
    threshold: Annotated[float, typer.Option(help="Jaccard similarity of character 5-grams, in (0, 1].")] = 0.7,
    out: OptionalOut = None,
    name: FormatName = None,
    mapping: Mapping = None,
    force: Force = False,
) -> None:
    """Near-duplicates: how many there are; with --out, tables that keep the first of each cluster."""
    from poise.data.dedup import dedup_tables, find_clusters

    with opened(path, name, mapping) as tables:
        if out is None:
            found = find_clusters(tables, on, threshold)
        else:
            made, found = dedup_tables(tables, out, on, threshold, replace=force)
            typer.echo(f"{out}: " + ", ".join(f"{unit} {rows:,}" for unit, rows in made.rows.items()))
    typer.echo(
        f"{found.texts:,} texts; {len(found.clusters):,} clusters of two or more; "
        f"{found.repeats:,} texts are near-duplicates of an earlier one ({found.repeats / max(found.texts, 1):.1%})"
    )
    if found.clusters:
        typer.echo("largest: " + ", ".join(f"{cluster.size:,} texts" for cluster in found.clusters[:5]))


@app.command()
def hashes(
    path: Folder,
    name: Annotated[str, typer.Option("--name", help="Name of the evaluation set.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The hash list.")],
    form: FormatName = None,
    mapping: Mapping = None,
) -> None:
    """Make a hash list of an evaluation set's prompts, to look for its texts elsewhere without passing them on."""
    from poise.data.contamination import write_hash_list
    from poise.data.keys import distinct_conversations

    with opened(path, form, mapping) as tables:
        texts = distinct_conversations(tables)
    write_hash_list(out, name, texts)
    typer.echo(f"{out}: {len(texts):,} prompts of {name}, hashes only")


@app.command()
def contamination(
    path: Folder,
    against: Annotated[list[Path], typer.Option("--against", metavar="FILE", help="A hash list; may be repeated.")],
    name: FormatName = None,
    mapping: Mapping = None,
) -> None:
    """Overlap of prompts with evaluation sets; exit code 4 when there is any."""
    from collections import Counter

    from poise.data.contamination import contamination as matches
    from poise.data.contamination import read_hash_list
    from poise.data.keys import distinct_conversations

    with opened(path, name, mapping) as tables:
        texts = distinct_conversations(tables)
    found = Counter((match.name, match.kind) for match in matches([texts], [read_hash_list(file) for file in against]))
    for (listed, kind), count in sorted(found.items()):
        typer.echo(f"{listed}: {count:,} prompts {kind}")
    typer.echo(f"{len(texts):,} prompts looked at, {found.total():,} matches")
    if found:
        raise typer.Exit(4)


@app.command()
def split(
    path: Folder,
    out: OptionalOut = None,
    test_share: Annotated[float, typer.Option(help="Share of conversations that go to test.")] = 0.1,
    seed: Seed = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Only look for leaks; exit code 4 when there are any.")
    ] = False,
    force: Force = False,
) -> None:
    """Split into train and test by near-duplicate cluster of the prompt, never by row."""
    from poise.data.split import split_tables, table_leaks
    from poise.data.tables import open_tables

    tables = open_tables(path)
    if not check:
        if out is None:
            raise PoiseError("nowhere to write to", where="poise data split", do="give --out DIR, or --check")
        tables = split_tables(tables, out, test_share, seed, replace=force)
    found = table_leaks(tables)
    typer.echo(f"{tables.folder}: {found} clusters of prompts lie in more than one split")
    if found:
        raise typer.Exit(4)


@app.command("map")
def map_labels(
    path: Folder,
    out: Out,
    target: Annotated[str, typer.Option("--to", metavar="TAXONOMY", help="See `poise data taxonomies`.")] = "pku-19",
    name: FormatName = None,
    mapping: Mapping = None,
    force: Force = False,
) -> None:
    """Carry harm labels to another taxonomy and list what was lost on the way."""
    from poise.data.crosswalked import map_tables

    with opened(path, name, mapping) as tables:
        _, losses = map_tables(tables, target, out, replace=force)
    typer.echo(
        f"{out}: {losses.labels:,} labels mapped to {target}; of {losses.unknown:,} unsafe ones no category is known"
    )
    for cell, labels in losses.lossy.items():
        typer.echo(f"  lossy: {cell}  ({labels:,} labels)")
    for category, labels in losses.unmapped.items():
        typer.echo(f"  no counterpart: {category}  ({labels:,} labels)")


@app.command()
def taxonomies() -> None:
    """The taxonomies that labels can be mapped to and from."""
    from poise.harm.taxonomy import load_taxonomy, taxonomy_names

    for name in taxonomy_names():
        taxonomy = load_taxonomy(name)
        typer.echo(f"{name:18s} {len(taxonomy.categories):3d} categories  {taxonomy.title}")


@app.command()
def pairs(
    path: Folder,
    out: Out,
    mixed: Annotated[float | None, typer.Option(help="Share of pairs with exactly one safe response.")] = None,
    both_safe: Annotated[float | None, typer.Option(help="Share with two safe responses.")] = None,
    both_unsafe: Annotated[float | None, typer.Option(help="Share with two unsafe responses.")] = None,
    per_prompt: Annotated[int, typer.Option(help="Most pairs of one prompt.")] = 4,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Pairs of labelled answers within a prompt; which is safer is filled in where the logical order decides it."""
    from poise.data.pairs import PairStrategy, make_pairs
    from poise.data.tables import open_tables

    strategy = PairStrategy(mixed=mixed, both_safe=both_safe, both_unsafe=both_unsafe, per_prompt=per_prompt)
    _, made = make_pairs(open_tables(path), strategy, out, seed, replace=force)
    states = ", ".join(
        f"{state.replace('_', ' ')} {made.pairs[state]:,} of {made.possible[state]:,} possible" for state in made.pairs
    )
    typer.echo(f"{out}: {states}")


@app.command()
def release(
    path: Folder,
    out: Out,
    title: Annotated[str, typer.Option("--name", help="Title of the card.")],
    licence: Annotated[str, typer.Option(help="Licence of the data as a whole, SPDX id.")],
    seed: Seed = 0,
    facts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML with what no file can tell: collection, annotators, ...")
    ] = None,
) -> None:
    """Write a public release: Parquet, card, Croissant, manifest, and the validation of what was written."""
    from poise.data.release import write_release
    from poise.data.tables import open_tables

    with rows_done("releasing") as tell:
        made = write_release(
            open_tables(path), out, name=title, licence=licence, seed=seed, facts=_facts(facts), progress=tell
        )
    typer.echo(f"{out}: " + ", ".join(f"{unit} {rows:,}" for unit, rows in made.validation.rows.items()))


def _facts(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    import yaml

    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise PoiseError(f"cannot be read ({error})", where=str(path), do="give a YAML file of key: text") from error
    if not isinstance(read, dict) or not all(isinstance(text, str) for text in read.values()):
        raise PoiseError("not a mapping of key to text", where=str(path), do="write lines like `biases: ...`")
    return {str(key): text for key, text in read.items()}


@app.command()
def synth(
    out: Out,
    scale: Annotated[float, typer.Option(help="1 is the size of PKU-SafeRLHF: 265k answers.")] = 0.01,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make a corpus with the published marginals and harmless texts, for tests and measurements."""
    from poise.data.synth import synthesize
    from poise.data.tables import open_tables

    with rows_done("making") as tell:
        synthesize(out, scale, seed, replace=force, progress=tell)
    typer.echo(f"{out}: " + ", ".join(f"{unit} {rows:,}" for unit, rows in open_tables(out).rows.items()))
