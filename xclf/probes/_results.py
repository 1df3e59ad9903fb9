"""The dict of a probe's results, as `results.json` holds it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xclf.estimators import (
    BaseClassifier,
    TrainedOn,
    dividing_rows,
    uses_full_batches,
)
from xclf.probes._measure import measured
from xclf.probes._outcome import Outcome, Settings
from xclf.probes._part import Part
from xclf.probes._tasks import task_sections
from xclf.report.class_names import names_of_model
from xclf.report.results import (
    history_facts,
    model_facts,
    template_facts,
)
from xclf.report.run import peak_memory, run_facts


def results_of(settings: Settings, outcome: Outcome) -> dict[str, Any]:
    """All sections of one feature set but few-shot curve, layers and times."""
    protocol = settings.plan.protocol
    results = run_facts("probe", _title(outcome), seed=settings.seed, like=outcome.train.X)
    results |= {
        "data": _data(outcome),
        "protocol": {
            **{name: getattr(protocol, name) for name in ("name", "text", "source")},
            "normalize": settings.normalize,
        },
        "search": _search(settings, outcome),
    }
    several = outcome.train.tasks is not None
    results |= _of_tasks(settings, outcome) if several else _of_classes(settings, outcome)
    return {name: plain(section) for name, section in results.items()}


def _of_classes(settings: Settings, outcome: Outcome) -> dict[str, Any]:
    """The sections about the one model and its classes."""
    model, train, tests = outcome.model, outcome.train, outcome.tests
    names = names_of_model(model, train.class_names)
    results: dict[str, Any] = {
        "class_names": names,
        "model": model_facts(model) | {"full_batch": uses_full_batches(model)},
        "history": history_facts(model),
    }
    sections = [measured(model, part, names, settings.top_k) for part in tests]
    if outcome.val is not None:  # by the model that has not seen them
        sections.append(measured(outcome.search.best, outcome.val, names, settings.top_k))
    rows = [section.pop("metrics") for section in sections]
    results["metrics"] = rows[len(tests) :] + rows[: len(tests)]
    results |= sections[0] if sections else {}
    if (shape := train.image_shape) is not None and shape[2] in (1, 3):
        results["templates"] = template_facts(model, shape, train.pixel_layout == "channel_first")
    return results


def _of_tasks(settings: Settings, outcome: Outcome) -> dict[str, Any]:
    """The sections about the models of several tasks."""
    model = outcome.model
    facts = model_facts(model) | {"full_batch": uses_full_batches(model)}
    return {"class_names": [], "model": facts} | task_sections(settings, outcome)


def plain(value: Any) -> Any:
    """A value of JSON: NumPy's numbers as Python's, and None for those that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def times_and_memory(times: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sections about the whole run."""
    return {"times": plain(list(times)), "peak_memory": peak_memory()}


def trained_on(settings: Settings, outcome: Outcome, results: Mapping[str, Any]) -> TrainedOn:
    """What the model file keeps of the rows."""
    train, seed, reading = outcome.train, settings.seed, settings.reading
    label, drop = reading.get("label"), reading.get("drop") or ()
    return TrainedOn(
        train.source,
        len(train),
        results["data"][0]["fingerprint"],
        outcome.test_size,
        None if outcome.test_size is None else int(seed),
        label=label if label is None or isinstance(label, str) else tuple(label),
        id=reading.get("id"),
        drop=(drop,) if isinstance(drop, str) else tuple(drop),
        image_shape=train.image_shape,
        pixel_layout=train.pixel_layout,
        seen=train.sketch(outcome.seen),
        tasks=train.tasks or (),
        normalize=settings.normalize,
    )


def for_others(model: BaseClassifier, train: Part, known: TrainedOn) -> BaseClassifier:
    """A copy of a probe's model for rows as users have them: it divides them by their norms where
    those of the probe were, and knows the names of their columns."""
    kept = dividing_rows(model) if known.normalize else copy.copy(model)
    kept._trained_on, kept._index_base = known, train.index_base
    if train.feature_names is not None:
        kept.feature_names_in_ = np.asarray(train.feature_names, dtype=object)
    return kept


def _title(outcome: Outcome) -> str:
    return f"Linear probe of {outcome.train.source}"


def _data(outcome: Outcome) -> list[dict[str, Any]]:
    train = outcome.train
    parts = [part for part in (train, outcome.val, *outcome.tests) if part is not None]
    facts = [part.facts() for part in parts]
    return [facts[0] | {"rows": train.count(outcome.rows)}, *facts[1:]]


def judged_by(settings: Settings, missing: int = 0) -> str:
    """The rows that candidates are judged by, in words.

    missing : folds that do not count, after Ctrl-C
    """
    if not settings.folds:
        return "validation"
    counted = f"{settings.folds - missing} of " if missing else ""
    return f"{counted}{settings.folds} folds"


def _search(settings: Settings, outcome: Outcome) -> dict[str, Any]:
    protocol, found = settings.plan.protocol, outcome.search
    several = found.counting.shape[1] > 1
    spread = found.counting.std(axis=1) if several else np.full(len(protocol.values), np.nan)
    return {
        "parameter": protocol.parameter,
        "log": len(protocol.values) > 1 and protocol.values[0] > 0.0,
        "metric": settings.metric,
        "data": judged_by(settings, found.missing),
        "spread": None if not several else "folds" if outcome.train.tasks is None else "tasks",
        "points": [
            {
                "value": value,
                "score": found.mean[k],
                "std": spread[k],
                "train_score": None,
                "converged": found.converged(k),
            }
            for k, value in enumerate(protocol.values)
        ],
        "chosen": found.chosen,
    }
