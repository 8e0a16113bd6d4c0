"""The log of a training, for people who watch it: log.csv and a TensorBoard event file.

In: measurements of each task in each epoch. Out: ``log.csv`` and ``tensorboard/`` in the folder of the run. They hold
times and memory, which differ between equal runs, so nothing reads them and no result depends on them.
"""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from flexcare_data.store.folders import atomic_write

LOG, EVENTS, EVENT_FILE = "log.csv", "tensorboard", "events.out.tfevents.run"
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
        self.events = _EventFile(events, self.rows)

    def add(self, **values: Any) -> None:
        """Add a row; a value that is None is left empty."""
        self.rows.append({name: value for name, value in values.items() if value is not None})
        names = {name for row in self.rows for name in row} - {*_FIRST, *_LAST}
        text = io.StringIO()
        table = csv.DictWriter(text, [*_FIRST, *sorted(names), *_LAST], lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        atomic_write(self.path, text.getvalue())
        self.events.add(self.rows[-1])

    def close(self) -> None:
        self.events.close()


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


class _EventFile:
    """The only event file of a run, with a name that tells no machine and no time."""

    def __init__(self, folder: Path, rows: Sequence[Row]) -> None:
        """Replace the event files of earlier attempts by one with ``rows``, so that no step is there twice."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.file = (folder / EVENT_FILE).open("wb")
        self.records = RecordWriter(self.file)
        self.records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Write the measurements of ``row`` as scalars `<task>/<phase>/<column>` at its step."""
        values = [
            Summary.Value(tag=f"{row['task']}/{row['phase']}/{name}", simple_value=float(value))
            for name, value in row.items()
            if name not in ("epoch", "step", "phase", "task")
        ]
        event = Event(wall_time=time.time(), step=int(row["step"]), summary=Summary(value=values))
        self.records.write(event.SerializeToString())
        self.records.flush()

    def close(self) -> None:
        self.records.close()
