"""The log of a training, for people who watch it: log.csv, and TensorBoard event files if `tensorboard` is installed.

In: measurements of each task in each epoch. Out: ``log.csv`` and ``tensorboard/`` in the folder of the run. They hold
times and memory, which differ between equal runs, so nothing reads them and no result depends on them.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flexcare_data.store.folders import atomic_write

LOG, EVENTS = "log.csv", "tensorboard"
_FIRST = ("epoch", "step", "phase", "task", "loss", "prediction_loss")
_LAST = ("lr", "samples_per_second", "peak_gpu_mib", "score")
Row = dict[str, Any]


class TrainingLog:
    """Rows of log.csv, one for each task in the training (`train`) and the validation (`val`) of an epoch.

    Columns: epoch; step, the optimiser steps so far; phase; task; loss, prediction_loss and one per extra loss of the
    model, `<name>_loss`, as the model gives it (of `train` means over the batches; of `val` the sum over batches of the
    prediction loss); lr; samples_per_second; peak_gpu_mib, the most memory that torch had on the GPU, empty on a CPU;
    score, the sum of both validation metrics, by which the weights are selected.
    """

    def __init__(self, folder: Path, *, epoch: int = 1, trained: Sequence[str] = ()) -> None:
        """Continue the log in ``folder`` at ``epoch``, of which the tasks ``trained`` are done."""
        self.path, events = folder / LOG, folder / EVENTS
        self.rows = [row for row in _read(self.path) if _is_before(row, epoch, trained)]
        if not self.rows:
            shutil.rmtree(events, ignore_errors=True)
        last = max((int(row["step"]) for row in self.rows), default=0)
        self.writer = _event_writer(events, last + 1)

    def add(self, **values: Any) -> None:
        """Add a row; a value that is None is left empty."""
        self.rows.append({name: value for name, value in values.items() if value is not None})
        names = {name for row in self.rows for name in row} - {*_FIRST, *_LAST}
        text = io.StringIO()
        table = csv.DictWriter(text, [*_FIRST, *sorted(names), *_LAST], lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        atomic_write(self.path, text.getvalue())
        if self.writer:
            for name, value in self.rows[-1].items():
                if name not in ("epoch", "step", "phase", "task"):
                    self.writer.add_scalar(f"{values['task']}/{values['phase']}/{name}", value, values["step"])
            self.writer.flush()

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def _is_before(row: Row, epoch: int, trained: Sequence[str]) -> bool:
    """Whether a row of an earlier attempt is of what is not done again."""
    return int(row["epoch"]) < epoch or (
        int(row["epoch"]) == epoch and row["phase"] == "train" and row["task"] in trained
    )


def _event_writer(folder: Path, first_step: int) -> Any:
    """A writer of event files that replaces those from ``first_step`` on; None without the package `tensorboard`."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step)
