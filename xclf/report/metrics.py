"""Metrics of predictions: the sections of `results.json` about one set of labelled rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from xclf import _array_api
from xclf._array_api import Array

#: Bins of the expected calibration error, of equal width over [0, 1].
CALIBRATION_BINS = 15

#: k of the top-k accuracy where nothing else is said.
TOP_K = 5

#: The metrics of a row, in the order of people's interest, and their names.
METRICS = {
    "accuracy": "accuracy",
    "top5": "top-5 accuracy",
    "mean_per_class": "mean per class",
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "mean average precision",
    "negative_log_likelihood": "negative log-likelihood",
    "calibration_error": "expected calibration error",
}

# Bytes of scores that are kept for average precision, and scores handled at once.
_MOST_SCORES, _CHUNK = 2**30, 2**22


class Evaluation:
    """Metrics of rows that come in chunks.

    Parameters
    ----------
    class_names : sequence of str
        Of the C classes, in the order of the columns.
    probabilistic : bool
        Whether the values are probabilities. Without them negative log-likelihood and calibration
        are undefined.
    rows : int
        How many rows there will be. Where all their values would take more than `most` they are
        not kept, and average precision is left out.
    top_k : int
        A row counts for `top{k}` if its class is among the k best; for more than k classes.
    most : int
        Bytes, by default 1 GiB.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        probabilistic: bool,
        rows: int,
        top_k: int = TOP_K,
        most: int | None = None,
    ) -> None:
        self.class_names = [str(name) for name in class_names]
        self.probabilistic = probabilistic
        self.top_k = top_k
        self._ranking = 8 * rows * len(self.class_names) <= (_MOST_SCORES if most is None else most)
        self._sums: _Sums | None = None
        self._truth: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []

    def add(self, labels: Array, values: Array) -> None:
        """Add rows.

        labels : (n,) integer in [0, C);  values : (n, C) probabilities or scores, larger is
            likelier, or (n,) scores of the second of two classes; on any device

        Raises ValueError for other shapes, labels out of range, and values that are not finite.
        """
        y, table = _checked(labels, values, len(self.class_names))
        step = max(1, _CHUNK // table.shape[1])
        for start in range(0, len(y), step):
            part = slice(start, start + step)
            self._add(_summed(y[part], table[part], self.top_k))
        if self._ranking:
            self._truth.append(y)
            self._scores.append(table)

    def merge(self, other: Evaluation) -> None:
        """Add the rows of another evaluation of the same classes."""
        if other._sums is not None:
            self._add(other._sums)
        self._truth += other._truth
        self._scores += other._scores

    def _add(self, sums: _Sums) -> None:
        self._sums = sums if self._sums is None else self._sums.plus(sums)

    def results(self, data: str = "test") -> dict[str, Any]:
        """The sections `metrics` (one row), `confusion`, `calibration` and `per_class`.

        data : name of the rows. With the ranks of the true classes r_i (0 is best) and, for
        probabilities p, the confidence c_i = max_j p_ij:

            accuracy                 mean of [r_i = 0]; of equal values the first class is predicted
            top5                     mean of [r_i < 5], and so of another k
            balanced_accuracy        mean over the classes that have rows of the share of their rows
            mean_per_class             with r_i = 0, by both names
            negative_log_likelihood  -mean log p_i,y_i, p no smaller than the dtype's epsilon
            calibration_error        sum_b n_b / N |accuracy_b - confidence_b| over 15 bins of equal
                                     width, (low, high], in which c_i lies
            average_precision        of each class against the rest, sum_n (R_n - R_(n-1)) P_n over
                                     the thresholds; the mean over the classes that have rows

        The values are those of scikit-learn's `accuracy_score`, `balanced_accuracy_score`,
        `log_loss` and `average_precision_score`, of which the last two need an indicator matrix
        (N, C) and, at 1,000 classes, many times as long. Calibration: Guo et al. (2017), On
        calibration of modern neural networks.
        """
        sums = self._sums
        if sums is None:
            raise ValueError("an evaluation needs at least one row")
        truth, predicted = np.divmod(sums.pairs, len(self.class_names))
        classes = _per_class(truth, predicted, sums.counts, self.class_names)
        present = [entry for entry in classes if entry["rows"]]
        recall = float(np.mean([entry["recall"] for entry in present]))
        row: dict[str, Any] = {"data": data, "accuracy": sums.right / sums.rows}
        if len(self.class_names) > self.top_k:
            row[f"top{self.top_k}"] = sums.near / sums.rows
        row |= {"mean_per_class": recall, "balanced_accuracy": recall}
        sections: dict[str, Any] = {"metrics": row, "per_class": classes}
        sections["confusion"] = {"data": data, "counts": _confusion(truth, predicted, sums.counts)}
        if self.probabilistic:
            bins = _bins(*sums.bins)
            gaps = (b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins if b["count"])
            row["negative_log_likelihood"] = -sums.likelihood / sums.rows
            row["calibration_error"] = float(sum(gaps) / sums.rows)
            sections["calibration"] = {"data": data, "bins": bins}
        if self._ranking:
            scores = self._scores[0] if len(self._scores) == 1 else np.concatenate(self._scores)
            precision = average_precision(np.concatenate(self._truth), scores)
            for entry, value in zip(classes, precision.tolist(), strict=True):
                entry["average_precision"] = value if entry["rows"] else None
            row["average_precision"] = float(np.nanmean(precision))
        return sections


def evaluation(
    labels: Array,
    *,
    scores: Array | None = None,
    probabilities: Array | None = None,
    class_names: Sequence[str],
    data: str = "test",
    top_k: int = TOP_K,
) -> dict[str, Any]:
    """The metrics of rows by their scores or their probabilities: see `Evaluation`.

    labels : (N,) integer in [0, C);  scores : (N, C), or (N,) of the second of two classes;
    probabilities : (N, C). ValueError unless one of the two is given.
    """
    values = scores if probabilities is None else probabilities
    if values is None or (scores is not None and probabilities is not None):
        raise ValueError("evaluation takes either scores or probabilities")
    rows, probabilistic = values.shape[0], probabilities is not None
    evaluated = Evaluation(class_names, probabilistic=probabilistic, rows=rows, top_k=top_k)
    evaluated.add(labels, values)
    return evaluated.results(data)


def task_metrics(sections: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The row of metrics of one of several tasks: of two classes the average precision is that of
    the second, NaN where it has no rows."""
    row = dict(sections["metrics"])
    if classes == 2 and "average_precision" in row:
        precision = sections["per_class"][1]["average_precision"]
        row["average_precision"] = np.nan if precision is None else precision
    return row


def mean_metrics(tasks: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The means over tasks of the metrics that all of them have; of those that are known: a class
    without rows has no average precision."""
    keys = [key for key in tasks[0] if all(key in one for one in tasks) and key != "data"]
    return {key: _mean([one[key] for one in tasks]) for key in keys}


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None


def ordered_metrics(names: Iterable[str]) -> list[str]:
    """Those of some names that are metrics, in the order of people's interest: `METRICS`, and the
    top-k accuracies of any k."""
    given = set(names)
    tops = sorted((name for name in given if _is_top(name)), key=lambda name: int(name[3:]))
    known = [name for name in METRICS if name in given and name not in tops]
    first = known[:1] if "accuracy" in given else []
    return first + tops + known[len(first) :]


def _is_top(name: str) -> bool:
    return name.startswith("top") and name[3:].isdigit()


def metric_name(name: str) -> str:
    """A metric's name for people: 'top-5 accuracy' for top5."""
    if _is_top(name):
        return f"top-{name[3:]} accuracy"
    return METRICS.get(name, name.replace("_", " "))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision of each class against the rest, (C,); NaN for a class without rows.

    AP = mean over the rows of the class of (rows of the class that score at least as high) / (rows
    that do), which is scikit-learn's sum over thresholds, equal scores included.

    labels : (N,) integer in [0, C);  scores : (N, C)
    """
    found = np.full(scores.shape[1], np.nan)
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(scores.shape[1] + 1))
    for k in np.flatnonzero(np.diff(ends)):
        column = scores[:, k]
        own = np.sort(column[order[ends[k] : ends[k + 1]]])
        hits = len(own) - np.searchsorted(own, own)
        found[k] = np.mean(hits / (len(column) - np.searchsorted(np.sort(column), own)))
    return found


def _checked(labels: Array, values: Array, classes: int) -> tuple[np.ndarray, np.ndarray]:
    y, table = _array_api.to_host(labels), _array_api.to_host(values)
    if table.ndim == 1 and classes == 2:
        table = np.stack([-table, table], axis=1)
    if table.shape != (len(y), classes):
        raise ValueError(
            f"scores or probabilities must be ({len(y)}, {classes}) for {len(y)} rows and "
            f"{classes} classes, got {table.shape}"
        )
    if y.dtype.kind not in "iu" or (y.size and not 0 <= y.min() <= y.max() < classes):
        raise ValueError(f"labels must be integers from 0 to {classes - 1}, got {y.dtype}")
    if not np.isfinite(table).all():
        raise ValueError("scores or probabilities must be finite")
    return y, table


def _row_figures(y: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """(true class, predicted, rank of the true one, largest value, log of the true one's)."""
    own = np.take_along_axis(values, y[:, None], axis=1)
    # `argmax` takes the first of equal values: those before the true class precede it.
    before = np.arange(values.shape[1]) < y[:, None]
    rank = np.sum((values > own) | ((values == own) & before), axis=1)
    likelihood = np.log(np.clip(own[:, 0], np.finfo(own.dtype).eps, None), dtype=np.float64)
    return y, np.argmax(values, axis=1), rank, values.max(axis=1), likelihood


@dataclass(frozen=True)
class _Sums:
    """Sums over rows.

    pairs, counts : C times the true class and the predicted one, of those that occur, sorted; and
        how many rows these are
    right, near : rows of rank 0, and of one below k
    bins : (3, B) rows, sums of the largest values and rows that are right, by the former
    likelihood : the sum of the logarithms of the true class's values
    """

    rows: int
    pairs: np.ndarray
    counts: np.ndarray
    right: int
    near: int
    bins: np.ndarray
    likelihood: float

    def plus(self, other: _Sums) -> _Sums:
        pairs, place = np.unique(np.concatenate([self.pairs, other.pairs]), return_inverse=True)
        counts = np.zeros(len(pairs), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        names = ("rows", "right", "near", "bins", "likelihood")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return _Sums(pairs=pairs, counts=counts, **sums)


def _summed(y: np.ndarray, values: np.ndarray, top_k: int) -> _Sums:
    truth, predicted, rank, confidence, likelihood = _row_figures(y, values)
    pairs, counts = np.unique(truth * values.shape[1] + predicted, return_counts=True)
    right = rank == 0
    return _Sums(
        len(y),
        pairs,
        counts,
        int(right.sum()),
        int((rank < top_k).sum()),
        _binned(confidence, right),
        float(likelihood.sum()),
    )


def _per_class(
    truth: np.ndarray, predicted: np.ndarray, counts: np.ndarray, names: list[str]
) -> list[dict[str, Any]]:
    parts = precision_recall_fscore_support(
        truth, predicted, labels=np.arange(len(names)), zero_division=0.0, sample_weight=counts
    )
    columns = (np.asarray(part).tolist() for part in parts)
    return [
        {"class": name, "rows": int(rows), "precision": precision, "recall": recall, "f1": f1}
        for name, precision, recall, f1, rows in zip(names, *columns, strict=True)
    ]


def _confusion(truth: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> list[list[int]]:
    """[true class, predicted class, rows] of every pair that occurs."""
    table: list[list[int]] = np.column_stack([truth, predicted, counts]).tolist()
    return table


_EDGES = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)


def _binned(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """(3, B) rows, sums of confidence and correct rows in bins of equal width, (low, high]."""
    number = np.clip(np.searchsorted(_EDGES, confidence) - 1, 0, CALIBRATION_BINS - 1)
    weights = (np.ones(len(number)), confidence.astype(np.float64), correct.astype(np.float64))
    return np.stack([np.bincount(number, w, CALIBRATION_BINS) for w in weights])


def _bins(counts: np.ndarray, *sums: np.ndarray) -> list[dict[str, Any]]:
    """The bins of equal width, (low, high]; confidence and accuracy are None in empty ones."""
    means = (np.divide(s, counts, where=counts > 0, out=np.full(s.shape, np.nan)) for s in sums)
    return [
        {
            "low": float(low),
            "high": float(high),
            "confidence": c if rows else None,
            "accuracy": a if rows else None,
            "count": int(rows),
        }
        for low, high, c, a, rows in zip(
            _EDGES[:-1], _EDGES[1:], *(m.tolist() for m in means), counts, strict=True
        )
    ]
