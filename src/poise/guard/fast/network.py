"""The network of a guard as an ONNX file, in float32 and in int8.

The graph holds trunk, pooling and heads: token ids in, three logits out. int8 quantises the weights of matrix products
and embeddings per output channel, and activations as they come, with one scale for a whole tensor. A few wide
channels would spoil that scale. So they are narrowed first and their weights widened (SmoothQuant, Xiao et al. 2023,
eq. 4), which changes nothing in float32; and of products whose weight has more inputs than outputs, where widths differ
most, the widest inputs are set apart and multiplied in float32 (LLM.int8(), Dettmers et al. 2022, section 3.2; there by
size as they come, here the same channels for all texts).

Weights take 7 of their 8 bits: a processor without VNNI adds two products of an activation (unsigned, 8 bits) and a
weight in 16 bits, and with 8-bit weights that sum overflows and is cut (VPMADDUBSW; ONNX Runtime's `reduce_range`).
With 7 bits every processor computes the same sums, so what was exported on one serves on the other.

On the starter guard and 129 texts, against torch in float32: largest move of a probability, mean move of P(unsafe),
least cosine of the logits of a text, and time for 128 tokens on one thread beside that of the last row (once, by
scripts that are not kept; the first three on a processor with VNNI, the others on one without):

    8 bits, smoothing with alpha 0.9                       0.160   0.0120   0.9676   0.91
    and narrowing products wholly in float32               0.102   0.0066   0.9976   1.30
    8 bits, alpha 0.6, 64 of 1,536 inputs apart            0.067   0.0063   0.9986   1.00

    the same, its sums cut                                 0.149   0.0143   0.9908   1.00
    the same, weights unsigned (`x64quantprecision`)       0.079   0.0065   0.9978   1.18
    7 bits, alpha 0.6, 64 of 1,536 inputs apart            0.101   0.0077   0.9979   1.00
    7 bits, alpha 0.5, 128 of 1,536 inputs apart           0.099   0.0078   0.9971   1.03
    7 bits, alpha 0.5, 64 of 1,536 inputs apart            0.071   0.0073   0.9984   1.00
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from poise.errors import PoiseError
from poise.guard.windows import Batch, Logits

if TYPE_CHECKING:
    from poise.guard.fit.model import GuardModel

SMOOTHING = 0.5
"""alpha: how much of a channel's width goes from the activations to the weights."""
APART = 1 / 24
"""Share of the inputs of a narrowing product that is multiplied in float32."""


def write_network(model: GuardModel, path: Path) -> None:
    """Trunk, pooling and heads in float32 as an ONNX file; batch and length are free, inputs it does not use left out.

    Raises:
        PoiseError: the package `onnx` is not installed.
    """
    import torch

    _need_onnx()

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, kinds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.model.from_ids(ids, kinds, mask))

    model.eval().to("cpu")
    ids = torch.ones((2, 8), dtype=torch.int64)
    mask = ids.clone()
    mask[1, 6:] = 0
    inputs, outputs = ["input_ids", "token_type_ids", "attention_mask"], list(Logits._fields)
    axes = {name: {0: "batch", 1: "length"} for name in inputs} | {name: {0: "batch"} for name in outputs}
    kept = model.encoder.model.config._attn_implementation
    model.encoder.model.set_attn_implementation("eager")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # the exporter without onnxscript calls itself deprecated, and traces shapes
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Graph(),
                (ids, torch.zeros_like(ids), mask),
                str(path),
                input_names=inputs,
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
    finally:
        model.encoder.model.set_attn_implementation(kept)


def quantise(plain: Path, out: Path, batches: Sequence[Batch] = (), *, apart: float = APART) -> None:
    """int8 weights (7 bits used) per output channel, activations quantised as they come.

    Args:
        plain: a network in float32.
        batches: what shows how wide its channels are; without any, nothing is smoothed or set apart.
        apart: share of the inputs of a narrowing product that stays in float32.

    Raises:
        PoiseError: the package `onnx` is not installed.
    """
    _need_onnx()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(plain)
    kept = _smooth(model, batches, apart) if batches else []
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises a preparation that changes nothing here
    try:
        quantize_dynamic(
            model, out, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True, nodes_to_exclude=kept
        )
    finally:
        logging.getLogger().setLevel(level)


def _products(graph: Any) -> list[tuple[Any, Any]]:
    """(node, weight) of every product of activations by a weight [in, out]."""
    weights = {weight.name: weight for weight in graph.initializer if len(weight.dims) == 2}
    return [
        (node, weights[node.input[1]]) for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights
    ]


def _smooth(model: Any, batches: Sequence[Batch], apart: float, alpha: float = SMOOTHING) -> list[str]:
    """Divide each channel j of what enters a product by s_j and multiply the weight's row by it, in place.

    s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), with geometric mean 1; products of the same activations share it. The
    widest channels of a narrowing product get 1 / s_j = 0 and a product of their own; returns the names of those.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    users: dict[str, list[tuple[Any, Any]]] = {}
    for node, weight in _products(graph):
        users.setdefault(node.input[0], []).append((node, weight))
    widest, floats = _widest(model, list(users), batches), list[str]()
    for name, found in users.items():
        matrices = [numpy_helper.to_array(weight) for _, weight in found]
        wide = _wide(widest[name], matrices, apart)
        width = np.where(wide, np.median(widest[name]), widest[name])
        rows = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
        log = alpha * np.log(np.maximum(width, 1e-5)) - (1 - alpha) * np.log(np.maximum(rows, 1e-5))
        scale = np.exp(log - log.mean()).astype(np.float32)
        divided, factor = f"{name}/smoothed", f"{name}/factor"
        graph.initializer.append(numpy_helper.from_array(np.where(wide, 0, 1 / scale).astype(np.float32), factor))
        first = min(list(graph.node).index(node) for node, _ in found)
        graph.node.insert(first, helper.make_node("Mul", [name, factor], [divided], name=f"{name}/smooth"))
        for number, ((node, _), matrix) in enumerate(zip(found, matrices, strict=True)):
            if wide.any():
                floats.append(_set_apart(graph, node, name, np.flatnonzero(wide), matrix))
            widened = f"{name}/weight{number}"
            kept = np.where(wide, 0, scale)[:, None]
            graph.initializer.append(numpy_helper.from_array((matrix * kept).astype(np.float32), widened))
            node.input[0], node.input[1] = divided, widened
    used = {name for node in graph.node for name in node.input}
    for weight in [weight for weight in graph.initializer if weight.name not in used]:
        graph.initializer.remove(weight)
    return floats


def _wide(widest: NDArray[np.float32], matrices: Sequence[NDArray[np.float32]], apart: float) -> NDArray[np.bool_]:
    """Which inputs [in] of products by these matrices [in, out] are set apart."""
    chosen = np.zeros(len(widest), dtype=bool)
    if all(matrix.shape[0] > matrix.shape[1] for matrix in matrices):
        chosen[np.argsort(-widest, kind="stable")[: round(len(widest) * apart)]] = True
    return chosen


def _set_apart(graph: Any, node: Any, name: str, chosen: NDArray[np.int64], matrix: NDArray[np.float32]) -> str:
    """Add the product of the chosen inputs of activations `name` to that of a node; returns its name."""
    from onnx import helper, numpy_helper

    out = node.output[0]
    picked, rows, part, rest, places = (f"{out}/{what}" for what in ("wide", "rows", "part", "rest", "places"))
    graph.initializer.append(numpy_helper.from_array(chosen.astype(np.int64), places))
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix[chosen]), rows))
    node.output[0] = rest
    more = (
        helper.make_node("Gather", [name, places], [picked], axis=-1, name=picked),
        helper.make_node("MatMul", [picked, rows], [part], name=part),
        helper.make_node("Add", [rest, part], [out], name=f"{out}/sum"),
    )
    for offset, new in enumerate(more, list(graph.node).index(node) + 1):
        graph.node.insert(offset, new)
    return part


def _widest(model: Any, names: Sequence[str], batches: Sequence[Batch]) -> dict[str, Any]:
    """max|x_j| of each channel of activations."""
    import onnx
    import onnxruntime
    from onnx import helper

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {given.name for given in session.get_inputs()}
    found: dict[str, Any] = dict.fromkeys(names, 0.0)
    for batch in batches:
        given = {name: ids for name, ids in batch._asdict().items() if name in inputs}
        for name, value in zip(names, session.run(list(names), given), strict=True):
            found[name] = np.maximum(found[name], np.abs(value).reshape(-1, value.shape[-1]).max(axis=0))
    return found


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise PoiseError("exporting needs onnx and ONNX Runtime", do='pip install -e ".[onnx]"', exit_code=3) from error
