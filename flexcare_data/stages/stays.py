"""Raw tables to STAYS: the ICU stays of the benchmark and the flow counts.

In: icustays, admissions, patients. Out: STAYS and one count of stays, admissions and patients per selection step.
`outcomes` defines the labels of mortality and readmission, `phenotypes` those of the diagnoses, `admissions` the death
of the patients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from flexcare_data.raw.tables import empty_counts
from flexcare_data.schema import STAYS, Flow, check
from flexcare_data.stages import outcomes, phenotypes
from flexcare_data.stages.admissions import build_admissions, count_inconsistencies, inconsistencies
from flexcare_data.stages.work import StageWork, write_counts

if TYPE_CHECKING:
    from flexcare_data.options import Options

ADULT_YEARS = 18


def build_stays(
    icustays: pl.DataFrame, admissions: pl.DataFrame, patients: pl.DataFrame, deaths: pl.DataFrame, options: Options
) -> tuple[pl.DataFrame, Flow]:
    """Select the stays of the benchmark and flag them.

    In this order: stays with a transfer between units are dropped; admission and patient are joined; with
    `after_death: dropped` admissions after the patient's death are dropped; admissions with exactly one remaining stay
    are kept; outcomes are added; adults are kept. A comparison with a missing time is false.

    Args:
        icustays: raw table, unique stay_id.
        admissions: raw table, unique hadm_id.
        patients: raw table, unique subject_id.
        deaths: ADMISSIONS.

    Returns:
        STAYS sorted by stay_id, and the flow: stays, admissions and patients left after each step.
    """
    flow: Flow = []
    stays = _step(flow, "ICU stays", icustays)
    stays = _step(flow, "one care unit throughout", stays.filter(pl.col("first_careunit") == pl.col("last_careunit")))
    stays = stays.join(admissions, on=["subject_id", "hadm_id"], how="inner", validate="m:1", maintain_order="left")
    stays = stays.join(patients, on="subject_id", how="inner", validate="m:1", maintain_order="left")
    stays = _step(flow, "admission and patient known", stays)
    if options.after_death == "dropped":
        dead = deaths.filter(pl.col("after_death") == 1).select("hadm_id")
        stays = _step(flow, "admitted before the patient's death", stays.join(dead, on="hadm_id", how="anti"))
        admissions = admissions.join(dead, on="hadm_id", how="anti")
    stays = stays.with_columns(los_hours=pl.col("los") * 24.0)
    stays = _step(flow, "only stay of its admission", stays.filter(pl.len().over("hadm_id") == 1))
    stays = outcomes.with_mortality(stays, options)
    stays = outcomes.with_readmission(stays, admissions, options)
    stays = _with_age(stays, options)
    stays = _step(flow, f"age {ADULT_YEARS} or more", stays.filter(pl.col("age") >= ADULT_YEARS))
    stays = stays.drop_nulls("intime") if stays["intime"].null_count() else stays
    if stays.height < int(flow[-1]["stays"]):
        stays = _step(flow, "intime known", stays)
    return check(stays.select(STAYS.names).sort("stay_id"), STAYS), flow


def _step(flow: Flow, name: str, stays: pl.DataFrame) -> pl.DataFrame:
    unique = stays.select(pl.col("hadm_id").n_unique(), pl.col("subject_id").n_unique()).row(0)
    flow.append({"step": name, "stays": stays.height, "admissions": unique[0], "patients": unique[1]})
    return stays


def _with_age(stays: pl.DataFrame, options: Options) -> pl.DataFrame:
    age = pl.col("anchor_age")
    if options.age == "at_admission":
        age = age + pl.col("admittime").dt.year() - pl.col("anchor_year")
    return stays.with_columns(age=age)


def run(work: StageWork) -> None:
    """Stage `stays`: stays.parquet, admissions.parquet, and phenotypes.parquet of the stays with a known diagnosis."""
    dropped = empty_counts()
    names = ("icustays", "admissions", "patients", "diagnoses_icd", "d_icd_diagnoses")
    tables = {name: work.read(name, dropped) for name in names}
    admissions, patients = tables["admissions"], tables["patients"]
    deaths = build_admissions(admissions, patients)
    count_inconsistencies(dropped, inconsistencies(admissions, patients, deaths), work.options)
    stays, flow = build_stays(tables["icustays"], admissions, patients, deaths, work.options)
    labels = phenotypes.build_phenotypes(tables["diagnoses_icd"], tables["d_icd_diagnoses"], stays, work.options)
    _step(flow, "a known diagnosis", stays.join(labels, on="stay_id", how="semi"))
    with work.folder() as folder:
        stays.write_parquet(folder / "stays.parquet")
        deaths.write_parquet(folder / "admissions.parquet")
        labels.write_parquet(folder / "phenotypes.parquet")
        write_counts(folder, {"stays": flow}, dropped)
