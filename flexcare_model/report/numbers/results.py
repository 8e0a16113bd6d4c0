"""Reader of an output folder: cohorts, runs, logs of the build. A missing input is None or empty, not an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from flexcare_data.options import PAPER_TASKS
from flexcare_data.store.folders import check_format
from flexcare_data.tasks import TASKS

SCORES_SCHEMA = {
    "model": pl.String,
    "experiment": pl.String,
    "seed": pl.Int64,
    "task": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "n": pl.Int64,
}


@dataclass(frozen=True, order=True)
class Run:
    """One finished run: a model, an experiment, a seed and the folder that holds its results."""

    model: str
    experiment: str
    seed: int
    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.folder / "metrics.json").read_text())

    @property
    def history(self) -> pl.DataFrame | None:
        return read_parquet(self.folder / "history.parquet")

    def predictions(self, task: str) -> pl.DataFrame | None:
        """Test predictions: sample_id and one column per output; None where the run has none for ``task``."""
        return read_parquet(self.folder / "predictions" / f"{task}.parquet")


@dataclass(frozen=True)
class Results:
    """The output folder of a build.

    Attributes:
        root: the folder.
        tasks: tasks that this build trains on; None: not known, then the paper's six.
        synthetic: whether the data is fabricated; None: as the output folder says.
        as_published: whether protocol flexcare and all three data sets are configured; None: not known.
    """

    root: Path
    tasks: tuple[str, ...] | None = None
    synthetic: bool | None = None
    as_published: bool | None = None

    def json(self, relative: str) -> Any | None:
        path = self.root / relative
        return json.loads(path.read_text()) if path.is_file() else None

    def parquet(self, relative: str) -> pl.DataFrame | None:
        return read_parquet(check_format(self.root / relative))

    def cohort(self, task: str) -> pl.DataFrame | None:
        """COHORT of ``task`` with its label columns."""
        return self.parquet(f"cohorts/{task}.parquet")

    @cached_property
    def cohorts(self) -> dict[str, pl.DataFrame]:
        """Cohorts that were built, in task order."""
        built = {name: self.cohort(name) for name in TASKS}
        return {name: frame for name, frame in built.items() if frame is not None}

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Finished runs (those with metrics.json), sorted."""
        found = []
        for path in (self.root / "runs").glob("*/*/seed*/metrics.json"):
            folder = path.parent
            seed = folder.name.removeprefix("seed")
            if seed.isdigit():
                found.append(Run(folder.parent.parent.name, folder.parent.name, int(seed), folder))
        return tuple(sorted(found))

    @cached_property
    def scores(self) -> pl.DataFrame:
        """Test metrics of all runs, one row per (model, experiment, seed, task, metric)."""
        rows = []
        for run in self.runs:
            written = run.metrics
            for task, metrics in written["metrics"].items():
                n = written.get("n", {}).get(task)
                rows += [
                    (run.model, run.experiment, run.seed, task, metric, None if value is None else float(value), n)
                    for metric, value in metrics.items()
                ]
        return pl.DataFrame(rows, schema=SCORES_SCHEMA, orient="row").sort("model", "experiment", "seed", "task")

    @cached_property
    def parameters(self) -> dict[tuple[str, str], int]:
        """Parameters of the models by model and experiment; runs of earlier versions do not say it."""
        found = {(run.model, run.experiment): run.metrics.get("parameters") for run in self.runs}
        return {name: number for name, number in found.items() if number is not None}

    @cached_property
    def is_synthetic(self) -> bool:
        """True where the recipe or the output folder says that the data is fabricated."""
        if self.synthetic is not None:
            return self.synthetic
        origin = self.json("origin.json") or {}
        return origin.get("synthetic") is True

    @cached_property
    def computed(self) -> dict[str, pl.DataFrame]:
        """Frames that were computed for one part of a page, for its other parts."""
        return {}

    @cached_property
    def compared_tasks(self) -> tuple[str, ...]:
        """Tasks of tables 3, 4 and 6, of the statistics and figures: those to train on, and others once trained."""
        wanted = {*(PAPER_TASKS if self.tasks is None else self.tasks), *self.scores["task"]}
        return tuple(name for name, task in TASKS.items() if task.in_comparison and name in wanted)

    def predictions(self, run: Run, task: str, split: str) -> pl.DataFrame | None:
        """Predictions of ``run`` for split ``val`` or ``test``; None where they are absent.

        A run has those of test. Those of val are an analysis of the run.
        """
        if split == "test":
            return run.predictions(task)
        place = self.root / "analysis" / run.model / run.experiment / f"seed{run.seed}" / "validation"
        return read_parquet(place / f"{task}.parquet")

    def runs_of(self, model: str, experiment: str) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if (run.model, run.experiment) == (model, experiment))

    def analysis_files(self, model: str, experiment: str, file: str) -> list[Path]:
        """The ``file`` of the analyses of a model, one per seed that has it, sorted by seed."""
        folders = (self.root / "analysis" / model / experiment).glob("seed*")
        by_seed = sorted(folders, key=lambda folder: int(folder.name.removeprefix("seed")))
        return [folder / file for folder in by_seed if (folder / file).is_file()]


def read_parquet(path: Path) -> pl.DataFrame | None:
    return pl.read_parquet(path) if path.is_file() else None


def tasks_in(frame: pl.DataFrame) -> list[str]:
    """The tasks that the column ``task`` names, in the order of tables and figures."""
    named = set(frame["task"])
    return [name for name in TASKS if name in named]


def tasks_text(number: int) -> str:
    """
    >>> tasks_text(6), tasks_text(1)
    ('six tasks', 'one task')
    """
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return f"{words[number] if number < len(words) else number} task{'' if number == 1 else 's'}"


SPLITS = ("train", "val", "test")
"""In the order of tables."""
METRIC_TITLES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "average_precision": "average precision",
    "macro_auroc": "macro AUROC",
    "micro_auroc": "micro AUROC",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
}
