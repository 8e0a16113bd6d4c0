"""Diagnosis-related group of the admission."""

from __future__ import annotations

import polars as pl

from flexcare_data.raw.tables import Dropped, count
from flexcare_data.schema import Flow
from flexcare_data.tasks.base import (
    Cohort,
    Sources,
    Task,
    after_death,
    make_cohort,
    note_of_admission,
    stays_with_series,
    with_last_image,
    with_note,
)

CODE_SYSTEM = "HCFA"
"""Medicare's DRG codes; APR codes, which other payers use, are left out."""


def build(sources: Sources) -> Cohort:
    """One sample per admission with a hospital course and an HCFA code, in the ICU or not.

    With `after_death: dropped` an admission that begins after the patient's death is none.

    Input: the series of its kept stay, the last AP radiograph of the admission, the hospital course. The label is the
    rank (from 0) of the numeric code among the distinct codes of all lines of all such admissions.
    """
    dropped: Dropped = {}
    codes = sources.raw["drgcodes"].filter(pl.col("drg_type") == CODE_SYSTEM)
    numeric = codes.with_columns(code=pl.col("drg_code").str.strip_chars().cast(pl.Int64, strict=False)).drop_nulls(
        "code"
    )
    count(dropped, TASK.name, "drg_code", "not_a_number", codes.height - numeric.height)
    coursed = note_of_admission(sources.sections, TASK.section, sources.options).select("hadm_id")
    flow: Flow = [{"step": "admissions", "samples": sources.admissions.height}]
    begun = sources.admissions
    if sources.options.after_death == "dropped":
        begun = begun.join(after_death(sources), on="hadm_id", how="anti", maintain_order="left")
        flow.append({"step": "admitted before the patient's death", "samples": begun.height})
    admissions = begun.join(coursed, on="hadm_id", how="semi")
    lines = numeric.join(admissions.select("hadm_id"), on="hadm_id", how="semi").with_row_index("_order")
    if sources.options.repeats == "newest":
        one_code = lines.filter(pl.col("code").n_unique().over("hadm_id") == 1)
        contradicting = lines["hadm_id"].n_unique() - one_code["hadm_id"].n_unique()
        count(dropped, TASK.name, "", "admission_with_contradicting_codes", contradicting)
        lines = one_code
    rank = lines.select("code").unique().sort("code").with_row_index("label")
    last = lines.sort("_order").group_by("hadm_id", maintain_order=True).last().select("hadm_id", "code")
    samples = admissions.join(last, on="hadm_id", how="inner", validate="1:1", maintain_order="left")
    samples = samples.join(rank, on="code", how="inner", validate="m:1", maintain_order="left")
    stays = stays_with_series(sources).select("hadm_id", "stay_id", "n_hours", period_length="los_hours")
    samples = samples.join(stays, on="hadm_id", how="left", validate="1:1", maintain_order="left").with_columns(
        sample_id=pl.col("hadm_id").cast(pl.String),
        window_start="admittime",
        window_end="dischtime",
        # Without dischtime no radiograph is in the window, and an earlier note counts only up to the admission.
        prediction_time=pl.coalesce("dischtime", "admittime"),
    )
    samples = with_note(with_last_image(samples, sources.radiographs), sources, TASK.section)
    flow = [
        *flow,
        {"step": "with a hospital course", "samples": admissions.height},
        {"step": "with an HCFA code", "samples": samples.height},
    ]
    return make_cohort(samples, TASK, sources, flow, dropped=dropped)


TASK = Task(
    name="drg",
    abbreviation="DRG",
    id=6,
    order=7,
    in_comparison=False,
    kind="multiclass",
    labels=("label",),
    n_outputs=None,
    section="brief_hospital_course",
    loss_weight=1.0,
    description="diagnosis-related group of the admission",
    build=build,
    raw=("drgcodes",),
    options=("after_death",),
    needs=("mimic_iv_note",),  # only admissions with a hospital course
)
