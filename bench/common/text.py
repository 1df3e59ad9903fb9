"""Text to classify that every installation has: the standard library's sources, by module."""

from __future__ import annotations

import collections
import sysconfig
from pathlib import Path

import numpy as np
import scipy.sparse

# Lines of a document, and sources that are tables of numbers rather than text.
_LINES, _TABLES = 10, {"encodings", "test", "site-packages"}

Text = tuple[scipy.sparse.csr_array, np.ndarray]


def documents(classes: int) -> tuple[list[str], np.ndarray]:
    """(documents, labels): ten lines each of the modules and packages that have most of them."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: list[tuple[str, str]] = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if _TABLES & set(place.parts):
            continue
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        name = place.parts[0].removesuffix(".py")
        for start in range(0, len(lines), _LINES):
            found.append(("\n".join(lines[start : start + _LINES]), name))
    counts = collections.Counter(name for _, name in found)
    most = sorted(name for name, _ in counts.most_common(classes))
    kept = [(text, name) for text, name in found if name in most]
    return [text for text, _ in kept], np.searchsorted(most, [name for _, name in kept])


def python_sources(classes: int = 20, rows: int | None = None) -> Text:
    """TF-IDF of words and pairs of words (N, D) in float64, rows in a random order.

    rows : drawn with replacement where there are to be more than there are documents
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, y = documents(classes)
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", min_df=2)
    x = scipy.sparse.csr_array(words.fit_transform(texts))
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    if rows is not None:
        order = order[:rows] if rows <= len(y) else rng.integers(len(y), size=rows)
    x = x[order]
    used = np.unique(x.indices)
    return x[:, used], y[order]


def power_law(rows: int, features: int = 100_000, classes: int = 10) -> Text:
    """Counts of words with frequencies 1 / rank, some dozen a row; each class prefers some."""
    rng = np.random.default_rng(0)
    share = 1.0 / np.arange(1, features + 1)
    y, each = rng.integers(classes, size=rows), 60
    index = np.empty((rows, each), dtype=np.int64)
    for label in range(classes):
        own = share * np.exp(rng.normal(size=features))
        mine = np.flatnonzero(y == label)
        places = np.searchsorted(np.cumsum(own / own.sum()), rng.random((len(mine), each)))
        index[mine] = np.minimum(places, features - 1)
    where = np.repeat(np.arange(rows), each)
    ones = np.ones(rows * each)
    where, index = where.astype(np.int32), index.ravel().astype(np.int32)
    x = scipy.sparse.coo_array((ones, (where, index)), shape=(rows, features)).tocsr()
    x.sum_duplicates()
    x.data = np.log1p(x.data)
    return x, y
