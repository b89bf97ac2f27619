"""The annotations of a run: what the stage `annotate` wrote, opened to people without touching the finished stage.

    <run>/04-annotate/annotations.db    the stage's log: an output, never opened, so that its manifest stays true
    <run>/annotations.db                a copy in which people work; it belongs to no stage

The copy is made once. Answers in it change no stage of the run: export it (`poise annotate export`) and begin a run
with those tables. When the stage has been run again with another outcome, a copy without answers is replaced and one
with answers is left alone with an error, since its texts are no longer those of the run.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import sqlalchemy as sa

from poise.annotate.store import AnnotationStore
from poise.annotate.store.schema import meta
from poise.errors import PoiseError
from poise.pipeline.files import TEMPORARY, sync_folder
from poise.pipeline.manifest import Manifest, read_manifest
from poise.pipeline.stages.annotate import FILE

_FROM = "made from"


def open_run(run: Path) -> Path:
    """The store of a run in which people work; made from the finished stage the first time.

    Raises:
        PoiseError: no run, no finished stage `annotate`, or people worked on what the run no longer holds.
    """
    folder, manifest = _finished(run)
    source, store = manifest.outputs[FILE].sha256, run / FILE
    if store.exists():
        with AnnotationStore.open(store) as opened, opened.database.read() as db:
            made_from = db.execute(sa.select(meta.c.value).where(meta.c.key == _FROM)).scalar()
            answers = sa.text("select count(*) from event where at_ms > 0")  # what the stage wrote has no time
            answered = int(db.execute(answers).scalar() or 0)
        if made_from == source:
            return store
        if answered:
            raise PoiseError(
                f"{answered} answers about texts of an earlier run of the stage",
                where=str(store),
                do=f"export them with `poise annotate export`, then move {FILE} away",
            )
    _copy(folder / FILE, store, source)
    return store


def _finished(run: Path) -> tuple[Path, Manifest]:
    for folder in sorted(run.glob("[0-9]*-annotate")):
        manifest = read_manifest(folder)
        if manifest is not None and FILE in manifest.outputs:
            return folder, manifest
    raise PoiseError("no finished stage `annotate`", where=str(run), do="name the folder of a run that got that far")


def _copy(source: Path, store: Path, made_from: str) -> None:
    """Copy, note where it came from, and only then give it its name."""
    part = store.with_name(f".{store.name}.{os.getpid()}{TEMPORARY}")
    try:
        shutil.copyfile(source, part)
        with AnnotationStore.open(part) as opened, opened.database.write() as db:
            db.execute(sa.insert(meta).values(key=_FROM, value=made_from))
        for old in (store.with_name(store.name + end) for end in ("-wal", "-shm")):
            old.unlink(missing_ok=True)
        part.replace(store)
        sync_folder(store.parent)
    finally:
        part.unlink(missing_ok=True)
