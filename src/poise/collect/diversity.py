"""Of several answers to one prompt the most diverse: what is alike by n-grams or by embedding goes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from poise.data.neardup import jaccard

Similarity = NDArray[np.float64]
Embed = Callable[[Sequence[str]], NDArray[np.floating]]


def n_gram_similarity(texts: Sequence[str]) -> Similarity:
    """Jaccard similarity of the character 5-grams of each two texts, 0..1, shape (N, N)."""
    found = np.eye(len(texts))
    for i, text in enumerate(texts):
        for j in range(i):
            found[i, j] = found[j, i] = jaccard(text, texts[j])
    return found


def embedding_similarity(embed: Embed) -> Callable[[Sequence[str]], Similarity]:
    """Cosine similarity of embeddings [N, H] as `embed` gives them, -1..1, shape (N, N)."""

    def similarity(texts: Sequence[str]) -> Similarity:
        vectors = np.asarray(embed(texts), dtype=np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors @ vectors.T

    return similarity


def most_diverse(similarity: Similarity, keep: int, most_alike: float = 1.0) -> list[int]:
    """Greedy farthest-first choice: begin with text 0, then always the one least like its nearest chosen text.

    Args:
        similarity: symmetric, shape (N, N); text 0 is the one that stays in any case.
        keep: how many to choose at most.
        most_alike: a text more like a chosen one than this is never chosen.

    Returns:
        Indices in the order of choice.
    """
    if not len(similarity):
        return []
    chosen = [0]
    nearest = similarity[0].copy()
    while len(chosen) < min(keep, len(similarity)):
        nearest[chosen] = np.inf
        best = int(nearest.argmin())
        if nearest[best] > most_alike:
            break
        chosen.append(best)
        nearest = np.maximum(nearest, similarity[best])
    return chosen
