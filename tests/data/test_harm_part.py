"""What a partial label says of a part of the policy: yes, no, or unknown, and unknown is never no."""

from __future__ import annotations

import pytest

from poise.data.harm_part import HarmPart, any_known, harm_part
from poise.data.records import PartialLabel
from poise.harm import CATEGORIES

VIOLENCE, BOTH, SEVERE = harm_part(["S6"]), harm_part(["S6", "Drugs"], "moderate"), harm_part((), "severe")


@pytest.mark.parametrize(
    ("part", "label", "holds"),
    [
        (VIOLENCE, {"safe": True}, False),
        (VIOLENCE, {"safe": False}, None),  # harmful, nobody said how
        (VIOLENCE, {"safe": False, "categories": ()}, None),
        (VIOLENCE, {"categories": ()}, False),
        (VIOLENCE, {}, None),
        (VIOLENCE, {"safe": False, "categories": ("Violence",)}, True),
        (VIOLENCE, {"categories": ("S6",)}, True),
        (VIOLENCE, {"safe": False, "categories": ("Drugs",)}, False),
        (VIOLENCE, {"safe": False, "categories": ("Drugs",), "undecided": ("Violence",)}, None),
        (VIOLENCE, {"safe": False, "categories": ("no such",)}, None),
        (BOTH, {"safe": False, "categories": ("Drugs",), "severity": 2}, True),
        (BOTH, {"safe": False, "categories": ("Drugs",), "severity": 1}, False),
        (BOTH, {"safe": False, "categories": ("Drugs",)}, None),
        (BOTH, {"safe": False, "severity": 1}, False),  # whatever the category
        (BOTH, {"safe": False, "severity": 3}, None),
        (SEVERE, {"severity": 0}, False),
        (SEVERE, {"severity": 3}, True),
        (SEVERE, {"safe": False}, None),
        (HarmPart(), {"safe": False}, True),
        (HarmPart(), {"categories": ()}, False),
        (HarmPart(), {}, None),
        # another taxonomy, by its crosswalk
        (VIOLENCE, {"safe": True, "categories": (), "taxonomy": "beavertails-14"}, False),
        (VIOLENCE, {"safe": False, "categories": ("animal_abuse",), "taxonomy": "beavertails-14"}, False),
        (harm_part(["S19"]), {"safe": False, "categories": ("animal_abuse",), "taxonomy": "beavertails-14"}, True),
    ],
)
def test_what_a_label_says(part: HarmPart, label: dict[str, object], holds: bool | None) -> None:
    assert part.holds(PartialLabel(**label)) is holds


def test_words_and_names() -> None:
    assert [BOTH.words, SEVERE.words, HarmPart().words] == ["S6, S7, at least moderate", "at least severe", "all harm"]
    assert harm_part(c.code for c in CATEGORIES).words.startswith("S1, S2, S3") and not VIOLENCE.whole
    with pytest.raises(ValueError, match="did you mean 'Violence'"):
        harm_part(["Violense"])
    assert [any_known(x) for x in ([], [None], [False, None], [False], [None, True])] == [None, None, None, False, True]
