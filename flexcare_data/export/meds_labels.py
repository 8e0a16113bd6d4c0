"""The cohorts as label files of MEDS (Medical Event Data Standard), for models that read MEDS data.

In: a cohort with the prediction time of each sample (its WINDOWS). Out: tables with the columns of MEDS' label schema:
subject_id, prediction_time, and boolean_value (binary and multi-label tasks) or integer_value (multi-class tasks),
sorted by subject and time. MEDS knows one label per row and file, so a multi-label task makes one file per label;
uncertain and blank CheXpert labels have no row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from flexcare_data.schema import SchemaError
from flexcare_data.store.folders import atomic_write
from flexcare_data.tasks import TASKS
from flexcare_data.tasks.base import Task

_TIME = pa.timestamp("us")
_COLUMNS = {
    "boolean_value": pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("prediction_time", _TIME, nullable=False),
            pa.field("boolean_value", pa.bool_(), nullable=False),
        ]
    ),
    "integer_value": pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("prediction_time", _TIME, nullable=False),
            pa.field("integer_value", pa.int64(), nullable=False),
        ]
    ),
}


def label_tables(timed: pl.DataFrame, task: Task) -> dict[str, pa.Table]:
    """Label tables of ``task`` by file stem: its name, or for a multi-label task the label's name.

    Args:
        timed: COHORT of the task with its labels and prediction_time.
        task: the task.

    Raises:
        SchemaError: if a sample has no prediction time.

    Example:
        >>> from datetime import datetime
        >>> from flexcare_data.tasks import TASKS
        >>> timed = pl.DataFrame({"subject_id": [7], "prediction_time": [datetime(2180, 1, 3)], "label": [1]})
        >>> label_tables(timed, TASKS["readmission"])["readmission"].to_pylist()
        [{'subject_id': 7, 'prediction_time': datetime.datetime(2180, 1, 3, 0, 0), 'boolean_value': True}]
    """
    untimed = timed["prediction_time"].null_count()
    if untimed:
        raise SchemaError(f"{task.name}: {untimed} samples have no prediction time, expected none")
    if task.kind == "multilabel":
        return {file_stem(name): _table(timed, name, "boolean_value") for name in task.labels}
    value = "boolean_value" if task.kind == "binary" else "integer_value"
    return {task.name: _table(timed, "label", value)}


def write_labels(tables: dict[str, pa.Table], folder: Path) -> None:
    """Write each table as ``<folder>/<stem>.parquet``."""
    for stem, table in tables.items():
        atomic_write(folder / f"{stem}.parquet", partial(pq.write_table, table))


def write_all(cohorts: Mapping[str, Path], out: Path) -> None:
    """Write the labels of ``cohorts`` (folder of the stage, by task) as ``<out>/<task>/<label>.parquet``."""
    for task, folder in cohorts.items():
        cohort = pl.read_parquet(folder / f"{task}.parquet")
        asked = pl.read_parquet(folder / "windows.parquet", columns=["sample_id", "prediction_time"])
        timed = cohort.join(asked, on="sample_id", how="left", validate="1:1")
        write_labels(label_tables(timed, TASKS[task]), out / task)


def file_stem(label: str) -> str:
    """A label's name as a file name.

    Example:
        >>> file_stem("Respiratory failure; insufficiency; arrest (adult)")
        'respiratory_failure_insufficiency_arrest_adult'
    """
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


def _table(timed: pl.DataFrame, label: str, value: str) -> pa.Table:
    known = timed.filter(pl.col(label) >= 0).sort("subject_id", "prediction_time", maintain_order=True)
    schema = _COLUMNS[value]
    answers = known[label] == 1 if value == "boolean_value" else known[label]
    return pa.table(
        [
            known["subject_id"].to_arrow().cast(pa.int64()),
            known["prediction_time"].to_arrow().cast(_TIME),
            answers.to_arrow().cast(schema.field(value).type),
        ],
        schema=schema,
    )
