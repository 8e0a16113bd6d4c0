"""14 CheXpert labels of a chest radiograph."""

from __future__ import annotations

import polars as pl

from flexcare_data.hours import TOLERANCE, n_bins
from flexcare_data.raw.tables import Dropped, count
from flexcare_data.schema import CHEXPERT
from flexcare_data.tasks.base import (
    Cohort,
    Sources,
    Task,
    after_death,
    make_cohort,
    note_of_admission,
    stays_with_series,
    with_note,
)

FEWEST_HOURS = 4
"""Studies in the first 4 hours have no series (published)."""

BLANK = -2


def build(sources: Sources) -> Cohort:
    """One sample per study with an AP radiograph and CheXpert labels, in the ICU or not; this image is the input.

    The series is that of the kept stay that contains the study time, up to that time; the note that of the
    admission that contains it. With `after_death: dropped` a study in an admission that begins after the patient's
    death is none. Labels: 1, 0, -1 uncertain, -2 blank.
    """
    dropped: Dropped = {}
    images = sources.radiographs.drop_nulls("study_datetime").sort("file_order")
    studies = images.group_by("study_id", maintain_order=True).last()
    chexpert = sources.raw["chexpert"].unique(["subject_id", "study_id"], keep="last", maintain_order=True)
    labels = [pl.col(name).fill_null(BLANK).cast(pl.Int64) for name in CHEXPERT]
    labelled = studies.join(
        chexpert.select("subject_id", "study_id", *labels), on=["subject_id", "study_id"], how="inner", validate="1:1"
    )
    known = labelled.join(sources.admissions.select("subject_id"), on="subject_id", how="semi")
    count(dropped, TASK.name, "", "subject_without_admission", labelled.height - known.height)
    flow = [
        {"step": "studies with an AP image", "samples": studies.height},
        {"step": "with CheXpert labels", "samples": labelled.height},
        {"step": "of patients with an admission", "samples": known.height},
    ]
    if sources.options.after_death == "dropped":
        living = known.join(_taken_after_death(known, sources), on="study_id", how="anti", maintain_order="left")
        count(dropped, TASK.name, "", "after_death", known.height - living.height)
        flow.append({"step": "not in an admission after the patient's death", "samples": living.height})
        known = living
    samples = _with_admission(_with_stay(known, sources), sources)
    samples = samples.with_columns(
        sample_id=pl.col("study_id").cast(pl.String),
        prediction_time="study_datetime",
        window_start="study_datetime",
        window_end="study_datetime",
        image_time="study_datetime",
    ).with_columns(pl.Series("n_hours", n_bins(samples["period_length"].fill_null(0.0).to_numpy())))
    samples = samples.with_columns(n_hours=pl.when(pl.col("stay_id").is_not_null()).then("n_hours"))
    samples = with_note(samples, sources, TASK.section)
    return make_cohort(samples, TASK, sources, flow, dropped=dropped)


def _taken_after_death(studies: pl.DataFrame, sources: Sources) -> pl.DataFrame:
    """study_id of the studies in [admittime, dischtime] of an admission that begins after the patient's death."""
    admissions = after_death(sources).select("subject_id", "admittime", "dischtime")
    inside = studies.select("study_id", "subject_id", "study_datetime").join(admissions, on="subject_id", how="inner")
    return inside.filter(pl.col("study_datetime").is_between("admittime", "dischtime")).select("study_id")


def _with_stay(studies: pl.DataFrame, sources: Sources) -> pl.DataFrame:
    """Add stay_id and period_length (hours from intime, six decimals), null where there is no series."""
    stays = stays_with_series(sources).select("subject_id", "stay_id", "intime", "outtime", "first_hours")
    inside = studies.select("study_id", "subject_id", "study_datetime").join(stays, on="subject_id", how="inner")
    inside = inside.filter(pl.col("study_datetime").is_between("intime", "outtime"))
    hours = ((pl.col("study_datetime") - pl.col("intime")).dt.total_seconds() / 3600.0).round(6)
    inside = inside.with_columns(period_length=hours).sort("intime", "stay_id")
    last = inside.group_by("study_id", maintain_order=True).last()
    long_enough = (pl.col("period_length") > FEWEST_HOURS) & (
        pl.col("first_hours") <= pl.col("period_length") + TOLERANCE
    )
    series = last.filter(long_enough).select("study_id", "stay_id", "period_length")
    return studies.join(series, on="study_id", how="left", validate="1:1", maintain_order="left")


def _with_admission(studies: pl.DataFrame, sources: Sources) -> pl.DataFrame:
    """Add hadm_id of the admission that contains the study time: of several the last in file order with a note."""
    noted = note_of_admission(sources.sections, TASK.section, sources.options).select("hadm_id", has_note=True)
    admissions = sources.admissions.with_row_index("_order").select(
        "subject_id", "hadm_id", "admittime", "dischtime", "_order"
    )
    inside = studies.select("study_id", "subject_id", "study_datetime").join(admissions, on="subject_id", how="inner")
    inside = inside.filter(pl.col("study_datetime").is_between("admittime", "dischtime"))
    inside = inside.join(noted, on="hadm_id", how="left", validate="m:1").sort(
        pl.col("has_note").fill_null(False), "_order"
    )
    last = inside.group_by("study_id", maintain_order=True).last().select("study_id", "hadm_id")
    return studies.join(last, on="study_id", how="left", validate="1:1", maintain_order="left")


TASK = Task(
    name="diagnosis",
    abbreviation="DIA",
    id=5,
    order=6,
    kind="multilabel",
    labels=CHEXPERT,
    n_outputs=14,
    section="past_medical_history",
    loss_weight=0.2,
    description="14 CheXpert labels of a chest radiograph",
    build=build,
    raw=("chexpert",),
    options=("after_death", "availability", "edges", "height", "gcs_spellings"),
    ends_within_hour=True,
    asked_of_image=True,
)
