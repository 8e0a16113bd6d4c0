"""Explain one sample: its stay and times, its matrix, its image and note, and why they were chosen.

In: an output folder, a task, a sample_id. Out: text for a person with data access, and the matrix as a table.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from flexcare_data import note_ids
from flexcare_data.errors import UserError
from flexcare_data.hours import TOLERANCE
from flexcare_data.schema import EVENTS, HOURLY_INDEX, KNOWN_ONLY_LATER
from flexcare_data.series import HourlyRows, expand
from flexcare_data.store import folders as store
from flexcare_data.store.shards import cohort_path
from flexcare_data.tasks import TASKS
from flexcare_data.variables import COLUMNS


class UnknownSampleError(UserError):
    """The output folder has no such task or sample."""


def load_matrix(output: Path | str, task: str, sample_id: str) -> np.ndarray:
    """The unnormalised input matrix of one sample: float64 (n_hours, 76), columns `flexcare_data.COLUMNS`.

    A sample without series has no rows. A model sees the last 512 rows.

    Raises:
        UnknownSampleError: no such task or sample.
    """
    sample = _sample(Path(output), task, sample_id)
    if sample["stay_id"] is None:
        return np.zeros((0, len(COLUMNS)))
    rows = HourlyRows(output, task)
    (ranges,) = rows.ranges(pl.DataFrame([sample]))
    return expand(*rows.read(ranges))


def _sample(output: Path, task: str, sample_id: str) -> dict:
    path = output / "cohorts" / f"{task}.parquet"
    if task not in TASKS or not path.exists():
        raise UnknownSampleError(f"{output}: expected a cohort named {task}; build it with `snakemake {task}`")
    table = pl.scan_parquet(store.check_format(cohort_path(output, task)))
    rows = table.filter(pl.col("sample_id") == str(sample_id)).collect().to_dicts()
    if not rows:
        raise UnknownSampleError(f"{path}: no sample with this id; see column sample_id")
    return rows[0]


def explain_sample(output: Path, task: str, sample_id: str) -> tuple[str, pl.DataFrame]:
    """Explain a sample as text; also return its matrix with the hour and the 76 column names."""
    sample = _sample(output, task, sample_id)
    matrix = load_matrix(output, task, sample_id)
    windows = pl.scan_parquet(output / "data" / "windows" / f"{task}.parquet")
    window = windows.filter(pl.col("sample_id") == sample["sample_id"]).collect().to_dicts()[0]
    table = pl.DataFrame(matrix, schema=list(COLUMNS)).insert_column(0, pl.Series("hour", np.arange(len(matrix))))
    lines = [
        f"{TASKS[task].abbreviation} sample {sample['sample_id']}: {TASKS[task].description}",
        f"  patient {sample['subject_id']}, admission {sample['hadm_id']}, split {sample['split']}",
        f"  prediction time {window['prediction_time']}",
        *_series_lines(output, sample, window),
        *_image_lines(window, sample),
        *_note_lines(output, window, sample, task),
        "  label: " + ", ".join(f"{name} {sample[name]}" for name in TASKS[task].labels),
    ]
    with pl.Config(tbl_rows=12, tbl_cols=10, tbl_hide_dataframe_shape=True, float_precision=4):
        lines.append(f"  matrix ({len(matrix)} hours, {len(COLUMNS)} columns), unnormalised:\n{table}")
    return "\n".join(lines), table


def _series_lines(output: Path, sample: dict, window: dict) -> list[str]:
    if sample["stay_id"] is None:
        return ["  series: none"]
    path = output / "data" / "stays.parquet"
    stay = pl.scan_parquet(path).filter(pl.col("stay_id") == sample["stay_id"]).collect().to_dicts()[0]
    return [
        f"  stay {stay['stay_id']}: {stay['intime']} to {stay['outtime']} ({stay['los_hours']:.2f} hours), "
        f"{stay['first_careunit']}, age {stay['age']}",
        f"  series: {sample['n_hours']} hourly rows, [intime, intime + {sample['period_length']:g} h]",
        *_not_stored_lines(output, sample, stay["intime"], window["prediction_time"]),
    ]


def _not_stored_lines(output: Path, sample: dict, intime: datetime, asked: datetime) -> list[str]:
    """The values of the observed period that could be read only after the question, and what the series shows."""
    end = sample["period_length"] + TOLERANCE
    # The published index is a link into the folder of the stage, whose manifest has the options.
    options = store.read_manifest((output / HOURLY_INDEX.path).resolve().parent)["spec"]["options"]
    hours = pl.col("hours")
    hour = hours.floor() if options["edges"] == "left" else (hours - TOLERANCE).cast(pl.Int64)
    events = pl.scan_parquet(output / EVENTS.path).filter(pl.col("stay_id") == sample["stay_id"])
    charted = events.filter(hours > -TOLERANCE, hours <= end).sort("hours", "variable").collect()
    charted = charted.with_columns(
        is_last=hours == hours.max().over("variable", hour),
        stored=pl.lit(intime) + pl.duration(microseconds=(pl.col("stored_hours") * 3_600_000_000).round()),
    )
    late = charted.filter(pl.col("stored_hours") > end, pl.col("stored") > asked)
    if late.is_empty():
        return ["  all values charted in this time could be read at the prediction time"]
    lines = ["  charted in this time, but could be read only after the prediction time:"]
    for row in late.iter_rows(named=True):
        if options["availability"] == "storetime":
            shown = "not in the series"
        else:
            shown = "in the series" if row["is_last"] else "replaced in the series by a later value of the hour"
        times = f"charted at {row['hours']:.2f} h, stored at {row['stored_hours']:.2f} h"
        lines.append(f"    {row['variable']} {row['value']}: {times}, {shown}")
    return lines


def _image_lines(window: dict, sample: dict) -> list[str]:
    rule = f"last AP radiograph in [{window['window_start']}, {window['window_end']}]"
    if sample["dicom_id"] is None:
        return [f"  image: none ({rule})"]
    return [f"  image: {sample['dicom_id']} of study {sample['study_id']}, taken {window['image_time']} ({rule})"]


def _reports(output: Path, names: list[str]) -> list[dict]:
    """The radiology reports with these ids, in this order; none where the notes are discharge summaries."""
    path = output / "data" / "notes" / "reports.parquet"
    if not path.exists():
        return []
    found = pl.scan_parquet(path).filter(pl.col("note_id").is_in(names)).collect()
    return sorted(found.to_dicts(), key=lambda report: names.index(report["note_id"]))


def _note_lines(output: Path, window: dict, sample: dict, task: str) -> list[str]:
    section = TASKS[task].section
    if sample["note_id"] is None:
        return ["  note: none"]
    reports = _reports(output, sample["note_id"].split(note_ids.SEPARATOR))
    if reports:
        lines = []
        for report in reports:
            times = [time for time in (report["charttime"], report["storetime"]) if time]
            filed = f"could be read from {max(times)} on, by the prediction time"
            examined = report["charttime"] or "an unknown time"
            lines.append(f"  note: {report['note_id']}, radiology report of {examined} ({filed}):")
            lines.append(f"    {json.dumps(report['text'], ensure_ascii=False)}")
        return lines
    notes = pl.scan_parquet(output / "data" / "notes" / "sections.parquet")
    note = notes.filter(pl.col("note_id") == sample["note_id"]).collect().to_dicts()[0]
    same = note["hadm_id"] == sample["hadm_id"]
    why = KNOWN_ONLY_LATER[section] if same else "summary of an earlier admission, filed before the prediction time"
    filed = f"filed {window['note_time']}; {why}"
    return [
        f"  note: {sample['note_id']}, {section} ({filed}):",
        f"    {json.dumps(note[section], ensure_ascii=False)}",
    ]
