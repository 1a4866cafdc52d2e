"""How well a document fits a question, as a number: BM25.

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
"""What Markdown puts around words: addresses of links, brackets, quotes and stars."""
_ENDS = re.compile(r"\n\s*\n|\n(?=\s*(?:[#>=*+~|-]|\d+\.))|(?<=[.!?])\s+")
"""Where sentences end: between paragraphs, before headings, rules and list entries, and after a full stop."""
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are by do does for how in is it of on or that the them these this to what which who with",
    )
)


def terms(text: str) -> list[str]:
    """The words of a text, lower case, without their commonest endings and without common words."""
    words = (word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _COMMON)
    return [_ENDINGS.sub("", word) if len(word) > 4 else word for word in words]


def count(question: Sequence[str], text: str) -> tuple[list[int], int]:
    """How often each term of the question occurs in a text, and how many terms the text has."""
    found = terms(text)
    counts = Counter(found)
    return [counts[term] for term in question], len(found)


def sentence(question: Sequence[str], text: str, rarity: NDArray[np.float64], longest: int = 200) -> str:
    """The sentence of a text that has the most of a question; nothing, if no term of the question is in it.

    Args:
        question: The terms of the question.
        text: Prose or Markdown, whose blocks of code do not count.
        rarity: How rare each term is, shape `(terms,)`.
        longest: Characters, > 0; of a longer sentence a part is shown, cut between words.
    """
    best, most = "", (0.0, 0.0)
    for part in _ENDS.split(_CODE.sub("\n\n", text)):
        words = " ".join(_MARKS.sub("", _TAGS.sub(" ", part)).split())
        pieces = wrap(words.lstrip("#>=+~- "), longest)
        for place, piece in enumerate(pieces):
            counts, length = count(question, piece)
            fit = float(rarity[np.array(counts) > 0].sum()), -float(length)  # of equals the shortest
            if fit[0] > 0 and fit > most:
                most = fit
                best = f"{'... ' if place else ''}{piece}{' ...' if place < len(pieces) - 1 else ''}"
    return best


def rarity(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """How rare each term is: its inverse document frequency, >= 0.

    Args:
        counts: How often each term occurs in each document, shape `(documents, terms)`.

    Returns:
        Shape `(terms,)`.
    """
    documents, containing = counts.shape[0], (counts > 0).sum(axis=0)
    return np.log1p((documents - containing + 0.5) / (containing + 0.5))


def bm25(
    counts: NDArray[np.float64], length: float, rarity: NDArray[np.float64], mean_length: float
) -> np.float64:
    """The relevance of one document.

    Args:
        counts: How often each term occurs in it, shape `(terms,)`.
        length: Its terms, >= 0.
        rarity: How rare each term is, shape `(terms,)`.
        mean_length: Mean of `length` over all documents, > 0.
    """
    saturated = counts * (K1 + 1) / (counts + K1 * (1 - B + B * length / mean_length))
    return (rarity * saturated).sum()
