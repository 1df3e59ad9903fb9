"""The result of a probe."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from xclf.estimators import BaseClassifier
from xclf.probes._tables import as_html, as_text


@dataclass(eq=False, repr=False)
class ProbeResult:
    """What a probe found; `print` shows it as tables.

    Attributes
    ----------
    model : estimator
        The probe itself, fitted: `model.predict`, `model.save`.
    accuracy : float
        Of the (first) test rows; without them of the validation rows, by the model of the search,
        and with neither the score of the search.
    chosen : float
        The value of the grid that was best.
    protocol : str
        Name of the protocol, or "grid".
    metrics : list of dict
        One for each set of rows: validation rows, by the model that has not seen them, then the
        test rows.
    search, few_shot, layers, tasks : dict, list or None
        Sections of `results.json`.
    interrupted : bool
        Whether Ctrl-C ended it: the best so far.
    results : dict
        Everything, as `results.json` holds it.
    """

    model: BaseClassifier
    results: dict[str, Any]
    interrupted: bool = False
    protocol: str = field(init=False)
    chosen: float = field(init=False)
    accuracy: float = field(init=False)
    metrics: list[dict[str, Any]] = field(init=False)
    search: dict[str, Any] = field(init=False)
    few_shot: dict[str, Any] | None = field(init=False)
    layers: dict[str, Any] | None = field(init=False)
    tasks: list[dict[str, Any]] | None = field(init=False)

    def __post_init__(self) -> None:
        results = self.results
        self.protocol = results["protocol"]["name"]
        self.metrics, self.search = results["metrics"], results["search"]
        self.few_shot, self.layers = results.get("few_shot"), results.get("layers")
        self.tasks = results.get("tasks")
        point = self.search["points"][self.search["chosen"]]
        self.chosen = point["value"]
        rows = [row for row in self.metrics if row["data"] != "validation"] or self.metrics
        self.accuracy = rows[0]["accuracy"] if rows else point["score"]

    def to_dict(self) -> dict[str, Any]:
        """A copy of everything as plain numbers, strings, lists and dicts: JSON."""
        return copy.deepcopy(self.results)

    def __repr__(self) -> str:
        return as_text(self.results)

    def _repr_html_(self) -> str:
        return as_html(self.results)


class ProbeInterrupted(KeyboardInterrupt):
    """Ctrl-C during a probe.

    result : ProbeResult of what was done, its `interrupted` set
    """

    def __init__(self, result: ProbeResult) -> None:
        super().__init__("interrupted; the exception's `result` is the best so far")
        self.result = result
