"""Sets on the Hugging Face Hub, pinned to a commit, fetched into the Hub's own cache and read like any folder.

No code of a set is run. Left out: streaming without a copy on the disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Any

import yaml

from poise.data.containers.find import SUFFIXES, find_files
from poise.errors import PoiseError

_PINNED = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})(:(?P<config>[\w.-]+))?")
_UNPINNED = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?(:[\w.-]+)?")
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---", re.DOTALL)


def resolve(path: str) -> Path:
    """A place on this machine for what the user names: a path, or `owner/name@revision` of the Hub.

    Args:
        path: with `:config` behind the revision, only the files of this config of the set's card, or of a folder of
            this name.

    Raises:
        PoiseError: no such path; a set on the Hub without a full commit hash, without `huggingface_hub`, or out of
            reach; a config that is not there or has no folder of its own.
    """
    if Path(path).exists():
        return Path(path)
    if found := _PINNED.fullmatch(path):
        fetch = _fetcher(found["name"], found["revision"])
        if found["config"] is None:
            return fetch([f"*{suffix}" for suffix in SUFFIXES])
        return _config(fetch, found["config"], path)
    if _UNPINNED.fullmatch(path):
        raise PoiseError(
            "no such path, and no pinned set of the Hub",
            where=path,
            do="name a file or folder, or owner/name@ with the 40 digits of a commit, so that the data can't change",
        )
    raise PoiseError("no such path", where=path, do="check the spelling")


def _fetcher(name: str, revision: str) -> Callable[[Sequence[str]], Path]:
    """A function that fetches the files of given patterns and returns the folder they are in."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PoiseError("huggingface_hub is not installed", where=name, do='pip install -e ".[datasets]"') from error

    def fetch(patterns: Sequence[str]) -> Path:
        try:
            return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
        except Exception as error:  # what the client raises has no base class of its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PoiseError(
                f"cannot be fetched ({reason})",
                where=f"{name}@{revision}",
                do="is there a network, and are you allowed?",
                exit_code=3,
            ) from error

    return fetch


def _config(fetch: Callable[[Sequence[str]], Path], config: str, where: str) -> Path:
    """The file, or the folder with exactly the files, of one config."""
    card = fetch(["README.md"]) / "README.md"
    named = _patterns(card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "", config)
    patterns = named or [f"{config}/**", f"data/{config}/**"]
    folder = fetch([wanted for pattern in patterns for wanted in (pattern, pattern.replace("**/", ""))])
    chosen = {file for pattern in patterns for file in _matching(folder, pattern) if file.is_file()}
    files = {file for file in find_files(folder) if file in chosen}
    if not files:
        raise PoiseError(f"no files of config {config!r}", where=where, do="see the set's card for its configs")
    place = Path(commonpath(files))
    if set(find_files(place)) != files:
        raise PoiseError(
            f"the files of config {config!r} lie among others", where=where, do=f"name them one by one, from {place}"
        )
    return place


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder; of a pattern that is no pattern for pathlib, none."""
    try:
        return list(folder.glob(pattern + "/*" if pattern.endswith("**") else pattern))
    except (ValueError, NotImplementedError):
        return []


def _patterns(card: str, config: str) -> list[str]:
    """The data files that a card names for a config: a pattern, a list of them, or patterns a split."""
    try:
        known = yaml.safe_load(found[1]) if (found := _FRONT_MATTER.match(card)) else None
    except yaml.YAMLError:
        known = None
    configs = known.get("configs") if isinstance(known, dict) else None
    for entry in configs if isinstance(configs, list) else []:
        if isinstance(entry, dict) and entry.get("config_name") == config:
            below = f"{entry['data_dir'].strip('/')}/" if isinstance(entry.get("data_dir"), str) else ""
            return [below + pattern for pattern in _flat(entry.get("data_files") or "**")]
    return []


def _flat(data_files: Any) -> list[str]:
    if isinstance(data_files, str):
        return [data_files]
    if isinstance(data_files, dict):
        return _flat(data_files["path"]) if "path" in data_files else _flat(list(data_files.values()))
    return [pattern for entry in data_files for pattern in _flat(entry)] if isinstance(data_files, list) else []
