"""Predictions with their labels and patients, for everything that is computed from predictions.

In: `Results`. Out: `Scored`, one per run and task, rows in the order of the cohort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers.methods import Method, compared
from flexcare_model.report.numbers.results import Results, Run


@dataclass(frozen=True)
class Scored:
    """Scores of one run on the samples of one split of one task.

    Attributes:
        task: name of the task.
        cohort: COHORT rows of the samples, without labels.
        labels: (n,) or (n, labels).
        scores: (n,) or (n, C) probabilities.
    """

    task: str
    cohort: pl.DataFrame
    labels: np.ndarray
    scores: np.ndarray

    @property
    def subjects(self) -> np.ndarray:
        return self.cohort["subject_id"].to_numpy()

    def only(self, rows: np.ndarray) -> Scored:
        """The samples where ``rows`` (n,) is True."""
        return Scored(self.task, self.cohort.filter(pl.Series(rows)), self.labels[rows], self.scores[rows])


def scored(results: Results, run: Run, task: str, split: str = "test") -> Scored | None:
    """Scores of ``run`` on split ``val`` or ``test`` of ``task``; None where cohort or predictions are absent.

    Raises:
        ValueError: if predictions name samples that the cohort does not have.
    """
    cohort, predictions = results.cohorts.get(task), results.predictions(run, task, split)
    if cohort is None or predictions is None or predictions.height == 0:
        return None
    spec = TASKS[task]
    joined = predictions.join(cohort, on="sample_id", how="inner", validate="1:1", maintain_order="left")
    if joined.height != predictions.height:
        raise ValueError(
            f"predictions of {run.model} for {task}: {predictions.height - joined.height} samples are not in the "
            "cohort; the run was made with another cohort, train it again"
        )
    names = [name for name in predictions.columns if name != "sample_id"]
    # A label may have the same name as a score column, so each is read from its own table.
    scores = predictions.select(names).to_numpy().astype(np.float64)
    order = predictions.select("sample_id").join(cohort, on="sample_id", how="left", maintain_order="left")
    labels = order.select(spec.labels).to_numpy()
    if spec.kind != "multilabel":
        labels = labels[:, 0]
    if spec.kind == "binary":
        scores = scores[:, 0]
    keep = [name for name in cohort.columns if name not in spec.labels]
    return Scored(task, order.select(keep), labels, scores)


def methods_with_runs(results: Results, task: str) -> Iterator[tuple[Method, tuple[Run, ...]]]:
    """Methods of table 3 that have finished runs on ``task``, with those runs."""
    for method in compared():
        runs = results.runs_of(method.model, method.experiment_for(task))
        if runs:
            yield method, runs
