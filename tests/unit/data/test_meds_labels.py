"""Label files against the schema of the `meds` package."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pyarrow.parquet as pq
import pytest
from meds import LabelSchema

from flexcare_data.export.meds_labels import file_stem, label_tables, write_labels
from flexcare_data.schema import SchemaError
from flexcare_data.tasks import TASKS

START = datetime(2180, 1, 1)


def cohort(task, answers):
    """Samples of subjects 3, 2, 1 (in this order), a day apart."""
    n = len(answers)
    labels = dict.fromkeys(task.labels, answers)
    times = [START + timedelta(days=i) for i in range(n)]
    return pl.DataFrame({"subject_id": [n - i for i in range(n)], "prediction_time": times, **labels})


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_files_follow_the_schema(task, tmp_path):
    write_labels(label_tables(cohort(task, [0, 1, 0]), task), tmp_path / task.name)
    files = sorted((tmp_path / task.name).glob("*.parquet"))
    assert len(files) == len(task.labels)
    for file in files:
        table = pq.read_table(file)
        LabelSchema.validate(table)
        assert table["subject_id"].to_pylist() == [1, 2, 3]
        value = "integer_value" if task.kind == "multiclass" else "boolean_value"
        assert table[value].to_pylist() == [0, 1, 0]


def test_uncertain_and_blank_labels_have_no_row():
    task = TASKS["diagnosis"]
    tables = label_tables(cohort(task, [1, -1, -2, 0]), task)
    assert tables["pleural_effusion"]["boolean_value"].to_pylist() == [False, True]
    assert tables["pleural_effusion"]["subject_id"].to_pylist() == [1, 4]


def test_stems_are_distinct():
    for task in TASKS.values():
        assert len({file_stem(name) for name in task.labels}) == len(task.labels)


def test_a_sample_without_a_time_is_an_error():
    task = TASKS["readmission"]
    frame = cohort(task, [0, 1]).with_columns(prediction_time=pl.lit(None, dtype=pl.Datetime("us")))
    with pytest.raises(SchemaError, match="2 samples have no prediction time"):
        label_tables(frame, task)
