"""An exported guard on a CPU: ONNX Runtime, the tokenizers library and numpy; no torch, no transformers.

One thread for each guard, so that N workers use N cores; threads that wait sleep. float32 computes windows of nearly
equal length together. int8 computes them one by one: its activations share one scale in a batch, so together a verdict
would depend on its neighbours (and be less exact), and on one thread a window costs little more alone. When it is
opened, it judges the texts whose probabilities were noted at export: that warms it up, and finds a processor that
computes something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poise.errors import PoiseError
from poise.guard.calibrated import CalibratedGuard
from poise.guard.normalise import normalise
from poise.guard.windows import Logits, Marks, Text, Window, highest, padded, windows

NETWORK = "model.onnx"
TOKENIZER = "tokenizer.json"
BATCH = {"onnx": 16, "onnx-int8": 1}
"""Windows computed at once, by engine."""


class FastGuard(CalibratedGuard):
    """What `poise guard export` wrote with an ONNX engine, ready to judge; the same `judge` as a `TrainedGuard`.

    Args:
        folder: of the exported guard.
        threads: of one computation; leave 1 where there are several workers.
        verify: judge the noted texts first.

    Raises:
        PoiseError: ONNX Runtime is not installed, the folder holds no exported guard, or this processor does not give
            the noted probabilities.
    """

    def __init__(self, folder: Path, *, threads: int = 1, verify: bool = True) -> None:
        settings = read_settings(folder)
        try:
            super().__init__(folder, settings, folder / NETWORK)
            self.engine = str(settings["engine"])
            self._batch_size = BATCH[self.engine]
            self._marks = Marks(*(int(settings["marks"][name]) for name in Marks._fields))
            self._max_length = int(settings["max_length"])
            self._tokenizer = _tokenizer(folder / TOKENIZER)
            self._vocabulary = frozenset(self._tokenizer.get_vocab())
            self._session = session(folder / NETWORK, threads)
            self._inputs = {given.name for given in self._session.get_inputs()}  # not every trunk knows kinds of tokens
            noted: list[dict[str, Any]] = settings["noted"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise PoiseError(
                f"holds no exported guard ({type(error).__name__})", where=str(folder), do="poise guard export"
            ) from error
        if verify:
            self._verify(noted, float(settings["check"]["limit"]))

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without marks."""
        ids: list[int] = self._tokenizer.encode(
            normalise(text, self._vocabulary.__contains__), add_special_tokens=False
        ).ids
        return ids

    def windows(self, text: Text) -> list[Window]:
        """Token ids (prompt part, answer part) of each window of a text."""
        prompt, response = (self.ids(part or "") for part in text)
        return windows(prompt, response, self._max_length)

    def raw_logits(self, texts: Sequence[Text], on_rows: Callable[[int], object] = lambda _: None) -> Logits:
        """Logits of all texts in order, before calibration."""
        return highest(texts, self.windows, self._run, batch_size=self._batch_size, on_rows=on_rows)

    def _run(self, chosen: Sequence[Window]) -> Logits:
        given = {name: ids for name, ids in padded(chosen, self._marks)._asdict().items() if name in self._inputs}
        return Logits(*self._session.run(list(Logits._fields), given))

    def _verify(self, noted: Sequence[dict[str, Any]], limit: float) -> None:
        found = self.probabilities([(entry["prompt"], entry["response"]) for entry in noted])
        apart = np.abs(found.unsafe - [entry["unsafe"] for entry in noted]).max()
        if not apart <= limit:
            raise PoiseError(
                f"P(unsafe) is up to {apart:.3f} away from what was noted at export, {limit:g} is allowed: this "
                "processor computes it otherwise",
                where=str(self.folder),
                do="export it on such a processor, or use --engine onnx",
                exit_code=3,
            )


def read_settings(folder: Path) -> dict[str, Any]:
    """The `guard.json` of a folder, trained or exported.

    Raises:
        PoiseError: there is none.
    """
    try:
        told = json.loads((folder / "guard.json").read_text(encoding="utf-8"))
        if not isinstance(told, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise PoiseError(
            f"holds no guard ({type(error).__name__})", where=str(folder), do="train one: poise guard train"
        ) from error
    return told


def session(network: Path, threads: int) -> Any:
    """An ONNX Runtime session on the CPU with so many threads, which sleep while they wait.

    Raises:
        PoiseError: ONNX Runtime is not installed, or the file is no network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise PoiseError("an exported guard needs ONNX Runtime", do='pip install -e ".[onnx]"', exit_code=3) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own types, by version
        raise PoiseError(
            f"can't be loaded ({type(error).__name__})", where=str(network), do="poise guard export"
        ) from error


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise OSError("no tokenizer")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
