"""The relevance of a document to a question: BM25.

Okapi BM25 as in Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009),
section 3.5, with the usual k1 = 1.2 and b = 0.75, and idf = ln(1 + (N - n + 0.5) / (n + 0.5)), which is never
negative.
"""

import re
from collections import Counter
from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.75
_ENDINGS = re.compile(r"(?:ing|ers?|ed|s)$")
_CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_TAGS = re.compile(r"<[^<>]*>|!\[[^\]]*\]\([^)]*\)|\|")
_MARKS = re.compile(r"(?<=\])\([^)]*\)|[][`*]")
"""Markdown marks around words: addresses of links, brackets, backquotes and stars."""
_ENDS = re.compile(r"\n\s*\n|\n(?=\s*(?:[#>=*+~|-]|\d+\.))|(?<=[.!?])\s+")
"""Ends of sentences: between paragraphs; before headings, rules and list entries; after a full stop."""
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are by do does for how in is it of on or that the them these this to what which who with",
    )
)


def terms(text: str) -> list[str]:
    """Return the words of a string in lower case, without common words and without common endings."""
    words = (word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _COMMON)
    return [_ENDINGS.sub("", word) if len(word) > 4 else word for word in words]


def count(question: Sequence[str], text: str) -> tuple[list[int], int]:
    """Return how often each term of the question occurs in `text`, and the number of terms of `text`."""
    found = terms(text)
    counts = Counter(found)
    return [counts[term] for term in question], len(found)


def sentence(question: Sequence[str], text: str, rarity: NDArray[np.float64], longest: int = 200) -> str:
    """Return the sentence of a document that is most relevant to a question; "" if it has none of its terms.

    Args:
        question: The terms of the question.
        text: Prose or Markdown; code blocks are ignored.
        rarity: Inverse document frequency of each term, shape `(terms,)`.
        longest: Characters, > 0; a longer sentence is cut between words.
    """
    best, most = "", (0.0, 0.0)
    for part in _ENDS.split(_CODE.sub("\n\n", text)):
        words = " ".join(_MARKS.sub("", _TAGS.sub(" ", part)).split())
        pieces = wrap(words.lstrip("#>=+~- "), longest)
        for place, piece in enumerate(pieces):
            counts, length = count(question, piece)
            # Of equally relevant sentences, the shortest is best.
            fit = float(rarity[np.array(counts) > 0].sum()), -float(length)
            if fit[0] > 0 and fit > most:
                most = fit
                best = f"{'... ' if place else ''}{piece}{' ...' if place < len(pieces) - 1 else ''}"
    return best


def rarity(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverse document frequency of each term, >= 0: the rarer, the higher.

    Args:
        counts: Occurrences of each term in each document, shape `(documents, terms)`.

    Returns:
        Shape `(terms,)`.
    """
    documents, containing = counts.shape[0], (counts > 0).sum(axis=0)
    return np.log1p((documents - containing + 0.5) / (containing + 0.5))


def bm25(
    counts: NDArray[np.float64], length: float, rarity: NDArray[np.float64], mean_length: float
) -> np.float64:
    """Return the relevance of one document.

    Args:
        counts: Occurrences of each term in the document, shape `(terms,)`.
        length: The number of terms of the document, >= 0.
        rarity: Inverse document frequency of each term, shape `(terms,)`.
        mean_length: Mean of `length` over all documents, > 0.
    """
    saturated = counts * (K1 + 1) / (counts + K1 * (1 - B + B * length / mean_length))
    return (rarity * saturated).sum()
