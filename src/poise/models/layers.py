"""Where a decoder keeps its layers, and running some of them alone.

Models name their parts differently: Llama and its kin have `layers` and `norm`, Pythia `layers` and `final_layer_norm`,
GPT-2 `h` and `ln_f`. Adapters can sit on all of these; only decoders of Llama's build are run in two parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from poise.errors import PoiseError


def layers_of(decoder: Any, where: str = "model") -> tuple[str, nn.ModuleList]:
    """The layers of a Transformers decoder, and the name it has for them.

    Raises:
        PoiseError: it has no such list.
    """
    count = decoder.config.get_text_config().num_hidden_layers
    for name, module in decoder.named_children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    kind = decoder.config.model_type
    raise PoiseError(f"a {kind!r} model has no list of {count} layers", where=where, do="use another model")


def check_shared(decoder: Any, shared: int, where: str) -> None:
    """Make sure that the lower layers can run alone.

    Transformers chooses a layer's mask by its place in the list that runs, so kinds of layers must repeat in step.

    Args:
        shared: how many of the lower layers are to run once for all roles.

    Raises:
        PoiseError: there are not so many, the decoder is built otherwise, or the upper layers' kinds would shift.
    """
    name, layers = layers_of(decoder, where)
    if not 0 <= shared < len(layers):
        raise PoiseError(f"shared_layers is {shared}, the model has {len(layers)} layers", where=where)
    kind = decoder.config.model_type
    if shared and (name != "layers" or not hasattr(decoder, "norm")):
        raise PoiseError(f"the layers of {kind!r} can't be run in two parts", where=where, do="set shared_layers: 0")
    types = list(getattr(decoder.config, "layer_types", None) or ())
    fits = [few for few in range(shared + 1) if types[few:] == types[: len(types) - few]]
    if shared not in fits:
        raise PoiseError(
            f"the layers of {kind!r} are of several kinds, whose order shifts after {shared} of {len(layers)} layers",
            where=where,
            do=f"set shared_layers: {fits[-1]}",
        )


@contextmanager
def only_layers(decoder: Any, start: int, stop: int, *, norm: bool) -> Iterator[None]:
    """Let the decoder consist of layers start..stop-1, with its final norm or without."""
    layers, final = decoder.layers, decoder.norm
    decoder.layers = layers[start:stop]
    if not norm:
        decoder.norm = nn.Identity()
    try:
        yield
    finally:
        decoder.layers, decoder.norm = layers, final
