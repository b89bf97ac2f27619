"""Texts that say nothing: neutral words in an order that is a pure function of (seed, id), many at a time.

Lengths are skewed as in the public data (prompts about 20 words, answers about 80). Two texts with different ids share
single words but hardly a sequence of them, so they are no near-duplicates.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ids = NDArray[np.int64]

_WORDS = (  # noqa: SIM905 - read as prose
    "amber anchor apple arch autumn bakery balloon bamboo basket beach bench bicycle birch blanket blossom blue "
    "boat border bottle branch brass bread breeze bridge bright brook broom brown brush bucket button cabin calm "
    "candle canoe canvas carpet cedar chalk chart cherry chestnut circle clay clear cliff clock cloud clover coast "
    "cobalt copper coral corner cotton cradle crane crescent crystal curtain cushion daisy dawn deep desk dew "
    "distant dome door dove drawer drift drum dusk dust early earth east easel echo elm ember even evening fabric "
    "faint falcon fern ferry field finch fir flag flame flute foam fog folder forest fountain frame fresh frost "
    "garden garnet gate gentle glade glass globe gold granite grass gravel green grey grove guitar gull hall "
    "hammock harbour harp hazel heather hedge heron hill hinge hollow honey horizon house indigo inlet iris iron "
    "island ivory ivy jade jar jasmine jetty jug juniper kettle key kite ladder lagoon lake lamp lane lantern larch "
    "lark late laurel lavender leaf ledge lemon lichen light lilac lime linen little lodge long loom lotus low "
    "lower lupin maple marble market marsh meadow mellow mill mint mist moon morning moss mountain narrow nest "
    "north nutmeg oak oar oat ocean ochre old olive onyx open orange orbit orchard osprey oval paddle page paint "
    "palm paper parcel path pearl pebble pencil pepper petal piano pier pillow pine plain plane planet plaster "
    "plate plum poem polar pond poplar poppy porch quarry quartz quiet quill quilt rain raft rail rapid red reed "
    "reef ribbon ridge ring river road robin roof room root rope rose round row saddle saffron sail salt sand "
    "sapphire satin scarf sea season second seed shade shallow shed shell shelf shore silent silk silver sky slate "
    "slow small smooth snow soft soil song south spark spring spruce square stair star steam steel stem step stone "
    "stool storm stove straw stream street summer sun swan swift table tall teal thread tide tile timber tin topaz "
    "tower trail train tree tulip tunnel twig umber upper vale valley vase velvet vine violet violin wagon walnut "
    "warm water wave wax west wheat wheel white wide willow wind window winter wood wool wren yellow yew young zinc"
).split()


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 finaliser: every input bit spread over all output bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draw(seed: int, purpose: int, ids: Ids) -> NDArray[np.uint64]:
    """64 random bits for each id, the same whatever the other ids are."""
    start = np.uint64((seed * 1_000_003 + purpose) % 2**64)
    return mix(mix(ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start) + start)


def texts(seed: int, purpose: int, ids: Ids, mean: float) -> list[str]:
    """One text for each id.

    Args:
        purpose: tells prompts and answers with one id apart.
        mean: words on average; lengths run from a quarter of it to 3.5 times. Longer prompts would make
            near-duplicates of the short answers beside them, where prompt and answer are compared together.
    """
    chance = (draw(seed, purpose, ids) >> np.uint64(11)).astype(np.float64) / 2**53
    lengths = np.clip(mean * (0.25 - 0.75 * np.log1p(-chance)), 4, 3.5 * mean).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    start = np.repeat(draw(seed, purpose + 1, ids), lengths)
    chosen = mix(start + place.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)) % np.uint64(len(_WORDS))
    words = pa.array(_WORDS).take(pa.array(chosen.astype(np.int32)))
    lists = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), words)
    found: list[str] = pc.binary_join(lists, " ").to_pylist()
    return found
