"""Stage `audit`: check every sample for leakage; a violation fails the build.

In: the cohorts and the tables that they were built from. Out: leakage.json, a count per check. Inputs that are known
only later by the published design (`schema.KNOWN_ONLY_LATER`) are counted, not hidden.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from flexcare_data import note_ids
from flexcare_data.errors import UserError
from flexcare_data.hours import TOLERANCE, n_bins
from flexcare_data.raw.tables import empty_counts
from flexcare_data.schema import KNOWN_ONLY_LATER
from flexcare_data.stages.images.study_times import read_radiographs
from flexcare_data.stages.reports import report_marks
from flexcare_data.stages.sections import section_marks
from flexcare_data.stages.work import StageWork, merged_counts, write_json
from flexcare_data.tasks import TASKS
from flexcare_data.tasks.base import available_from, hours_after, no_reports

if TYPE_CHECKING:
    from flexcare_data.options import Options

AuditCounts = dict[str, Any]
"""Content of leakage.json: counts of the checks of the splits, of the scaler and of each task."""


class AuditError(UserError):
    """A sample reads past its prediction time, or a patient is in two splits. Holds task, check and count."""


def audit_cohorts(
    cohorts: dict[str, pl.DataFrame],
    windows: dict[str, pl.DataFrame],
    *,
    stays: pl.DataFrame,
    splits: pl.DataFrame,
    series: pl.DataFrame,
    sections: pl.DataFrame,
    radiographs: pl.DataFrame,
    options: Options,
    scaler: dict[str, Any],
    reports: pl.DataFrame | None = None,
    n_reports: int = 1,
) -> AuditCounts:
    """Check every sample of ``cohorts`` (by task, with their WINDOWS) and return counts per check.

    Checks: the series ends at or before the prediction time or, where the whole stay is the input, the end of the stay;
    the image was taken in its window and by the prediction time; the note obeys option `notes`; the split is that of
    the patient and no patient is in two; the scaler is published or fitted on train only. Times are looked up
    again in ``stays``, ``radiographs``, ``sections`` and ``reports`` (REPORTS that have a text, under `notes:
    radiology`, of which a sample has at most ``n_reports``), not taken from the cohort.

    Raises:
        AuditError: naming task, check and the number of samples, never which.
    """
    counts: AuditCounts = {"split": _split_check(cohorts, splits), "scaler": _scaler_check(scaler), "tasks": {}}
    for name, cohort in cohorts.items():
        asked = windows[name].select("sample_id", "prediction_time", "window_start", "window_end")
        timed = cohort.join(asked, on="sample_id", how="left", validate="1:1")
        checks = {
            "samples": cohort.height,
            "violation: no prediction time": timed["prediction_time"].null_count(),
            **_series_checks(timed, series, stays),
            **_image_checks(timed, radiographs),
            **(
                _report_checks(timed, no_reports() if reports is None else reports, n_reports)
                if options.notes == "radiology"
                else _note_checks(timed, name, sections, options)
            ),
        }
        broken = {check: n for check, n in checks.items() if check.startswith("violation") and n}
        if broken:
            found = ", ".join(f"{n} samples: {check}" for check, n in broken.items())
            raise AuditError(f"{name}: {found}; expected 0")
        counts["tasks"][name] = checks
    return counts


def _split_check(cohorts: dict[str, pl.DataFrame], splits: pl.DataFrame) -> dict[str, int]:
    seen = [cohort.select("subject_id", pl.col("split").cast(pl.String)) for cohort in cohorts.values()]
    pairs = pl.concat([splits.select("subject_id", pl.col("split").cast(pl.String)), *seen]).unique()
    several = pairs.height - pairs["subject_id"].n_unique()
    if several:
        raise AuditError(f"splits: {several} patients in more than one split, expected 0")
    # "fold" is a split here; the word stays, as it is part of a published file.
    return {"patients": splits.height, "patients in more than one fold": 0}


def _scaler_check(scaler: dict[str, Any]) -> dict[str, Any]:
    if scaler["source"] not in ("mimic3", "train"):
        raise AuditError(f"scaler: expected one fitted on train or the published one, got {scaler['source']!r}")
    return {"source": scaler["source"], "hours fitted on": scaler["n_hours"]}


def _series_checks(timed: pl.DataFrame, series: pl.DataFrame, stays: pl.DataFrame) -> dict[str, int]:
    found = timed.drop_nulls("stay_id").join(
        series.select("stay_id", hours_of_stay="n_hours"), on="stay_id", how="left", validate="m:1"
    )
    found = found.join(stays.select("stay_id", "intime", "los_hours"), on="stay_id", how="left", validate="m:1")
    end = hours_after("intime", "period_length")
    after = (end > pl.col("prediction_time") + pl.duration(milliseconds=10)).fill_null(True)
    # The length of a stay and its outtime may differ by rounding; a whole stay ends with the stay.
    beyond = (pl.col("period_length") > pl.col("los_hours") + TOLERANCE).fill_null(True)
    expected = pl.Series(n_bins(found["period_length"].to_numpy()), dtype=pl.Int64)
    return {
        "with series": found.height,
        "violation: series after the prediction time": found.filter(after & beyond).height,
        "violation: more hours than the period": int((found["n_hours"] > expected).sum()),
        "violation: stay without series": found["hours_of_stay"].null_count(),
    }


def _image_checks(timed: pl.DataFrame, radiographs: pl.DataFrame) -> dict[str, int]:
    taken = radiographs.select("dicom_id", taken="study_datetime", owner="subject_id")
    with_image = timed.drop_nulls("dicom_id").join(taken, on="dicom_id", how="left", validate="m:1")
    late = (pl.col("taken") > pl.col("prediction_time")).fill_null(True)
    outside = ~pl.col("taken").is_between("window_start", "window_end").fill_null(False)
    return {
        "with image": with_image.height,
        "violation: image after the prediction time": with_image.filter(late).height,
        "violation: image outside its window": with_image.filter(outside).height,
        "violation: image of another patient": with_image.filter(pl.col("owner") != pl.col("subject_id")).height,
    }


def _note_checks(timed: pl.DataFrame, task: str, sections: pl.DataFrame, options: Options) -> dict[str, int]:
    filed = sections.select("note_id", filed=available_from(), note_subject="subject_id", note_hadm="hadm_id")
    noted = timed.drop_nulls("note_id").join(filed, on="note_id", how="left", validate="m:1")
    later = noted.filter((pl.col("filed") > pl.col("prediction_time")).fill_null(True)).height
    checks = {
        "with note": noted.height,
        "violation: note of another patient": noted.filter(pl.col("note_subject") != pl.col("subject_id")).height,
    }
    if options.notes == "none":
        return checks | {"violation: a note, but option `notes` is `none`": noted.height}
    if options.notes == "prior":
        return checks | {"violation: note filed after the prediction time": later}
    other = noted.filter((pl.col("note_hadm") != pl.col("hadm_id")).fill_null(True)).height
    section = TASKS[task].section
    assert section in KNOWN_ONLY_LATER
    return checks | {
        "violation: note of another admission": other,
        f"notes filed after the prediction time, by design ({section})": later,
    }


def _report_checks(timed: pl.DataFrame, reports: pl.DataFrame, n_reports: int) -> dict[str, int]:
    known = reports.select("note_id", filed=available_from(), owner="subject_id")
    noted = timed.drop_nulls("note_id").with_columns(note_id=note_ids.split("note_id"))
    each = noted.explode("note_id").join(known, on="note_id", how="left", validate="m:1")

    def samples(wrong: pl.Expr) -> int:
        return each.filter(wrong)["sample_id"].n_unique()

    return {
        "with note": noted.height,
        "violation: note of another patient": samples(pl.col("owner") != pl.col("subject_id")),
        "violation: note without text": samples(pl.col("owner").is_null()),
        "violation: more notes than the setting": noted.filter(pl.col("note_id").list.len() > n_reports).height,
        "violation: note filed after the prediction time": samples(
            (pl.col("filed") > pl.col("prediction_time")).fill_null(True)
        ),
    }


def run(work: StageWork) -> None:
    """Stage `audit`: leakage.json, and flow.json and dropped.json of the whole build."""
    folders = work.cohorts()
    counts = audit_cohorts(
        {task: pl.read_parquet(folders[task] / f"{task}.parquet") for task in folders},
        {task: pl.read_parquet(folders[task] / "windows.parquet") for task in folders},
        stays=work.table("stays", "stays"),
        splits=work.table("splits", "splits"),
        series=pl.read_parquet(work.upstream["hourly"] / "index.parquet"),
        sections=section_marks(work.upstream["sections"]),
        radiographs=read_radiographs(work, empty_counts()),
        options=work.options,
        scaler=json.loads((work.upstream["hourly"] / "scaler.json").read_text()),
        reports=report_marks(work.upstream["reports"]) if work.options.notes == "radiology" else None,
        n_reports=work.settings["n_reports"],
    )
    parts = [path for path in work.upstream.values() if (path / "flow.json").is_file()]
    flow: dict[str, Any] = {}
    for part in parts:
        flow |= json.loads((part / "flow.json").read_text())
    dropped = merged_counts([json.loads((part / "dropped.json").read_text()) for part in parts], of_one_table=max)
    with work.folder() as folder:
        write_json(folder / "flow.json", flow)
        write_json(folder / "dropped.json", dropped, sort_keys=True)
        write_json(folder / "leakage.json", counts)
