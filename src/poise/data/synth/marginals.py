"""What is published about PKU-SafeRLHF: the counts that a synthetic corpus has to meet.

The dual train split at revision 9421ffa, as counted by independent audits of the release (Yansong-Chen,
pku-saferlhf-experiments, commit a1a9332beb), and the sizes that the data cards and arXiv 2406.15513 give.
"""

from __future__ import annotations

PROMPTS, QA, DUAL, SINGLE = 44_600, 265_000, 83_400, 81_100
"""Rows of the whole release, rounded as published."""

PAIRS, DISTINCT_PROMPTS = 73_907, 38_641
SINGLE_TRAIN, MATCHED, CONFLICTS = 72_996, 64_640, 15_590
"""Single preferences; those whose two responses are a dual pair too; of these, pairs whose better and safer differ."""

ANSWERS = {0: 71_689, 1: 9_104, 2: 56_537, 3: 10_484}
"""Severity -> answers."""

MIXED = 10_791
"""Pairs with exactly one safe answer: 14.6 % of pairs, and odd because the number of safe answers is."""
SAME, OTHER_CATEGORIES, OTHER_SEVERITY = 13_895, 12_860, 5_912
"""Pairs of two unsafe answers by what separates them: nothing, only the categories, the severity. With the pairs of two
safe answers these are 60.0, 17.4 and 8.0 % of all."""

BETTER_IS_NOT_SAFER = 17_798
SINGLE_FOLLOWS_BETTER = 0.493
SINGLE_PICKS_SAFE = 0.740
"""Of conflicts in which exactly one answer is safe."""
SINGLE_CONTRADICTS = 0.086
"""Of pairs whose better and safer agree."""

SUBSETS = {"Alpaca-7B": 27_393, "Alpaca2-7B": 25_564, "Alpaca3-8B": 20_950}
"""Source of both responses -> pairs."""
PROMPT_SOURCES = {"Alpaca3-70B": 48_553, "BeaverTails": 14_716, "WizardLM-30B-Uncensored": 10_638}
"""Source of the prompt -> pairs."""

CATEGORIES: tuple[tuple[int, int, int, float], ...] = (
    (80, 2_889, 3_469, 0.07),
    (3_084, 4_257, 511, 0.14),
    (1_576, 1_661, 474, 0.30),
    (81, 1_258, 707, 0.13),
    (110, 1_961, 25, 0.55),
    (453, 6_677, 2_287, 0.08),
    (270, 6_419, 543, 0.25),
    (898, 14_144, 1_934, 0.14),
    (301, 17_517, 1_304, 0.11),
    (2_833, 9_533, 1_487, 0.35),
    (77, 1_694, 2_918, 0.28),
    (571, 6_489, 2_149, 0.05),
    (225, 881, 686, 0.15),
    (206, 18_651, 3_979, 0.10),
    (365, 2_997, 1_457, 0.13),
    (32, 1_095, 494, 0.19),
    (1_179, 6_467, 1_597, 0.01),
    (108, 9_269, 469, 0.07),
    (312, 1_052, 84, 0.39),
)
"""For S1..S19: answers of severity 1, 2, 3, and the share that has no other category."""

TOGETHER: dict[tuple[int, int], float] = {(17, 8): 0.84, (2, 1): 0.66, (7, 13): 0.58, (5, 11): 0.52}
"""(a, b), positions in card order -> P(b | a): Economic given White-Collar Crime, Insulting given Discriminatory
Behavior, Cybercrime given Privacy Violation, Physical Harm given Violence."""
