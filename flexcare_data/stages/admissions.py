"""Raw admissions to ADMISSIONS: when each patient died as far as known, and which admissions begin after that.

In: admissions, patients. Out: ADMISSIONS, and counts of what does not fit together: dates of death long before an
admission, admissions after the death, admissions inside others. The options `asked`, `after_death` and `nested` say
what becomes of them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from flexcare_data.hours import LONGEST_AFTER_DEATH
from flexcare_data.raw.tables import Dropped, count
from flexcare_data.schema import ADMISSIONS, check

if TYPE_CHECKING:
    from flexcare_data.options import Options

DAY = timedelta(days=1)


def build_admissions(admissions: pl.DataFrame, patients: pl.DataFrame) -> pl.DataFrame:
    """All admissions with the death of their patient.

    death_time is the first deathtime of all admissions of the patient. Without one it is the end of the day `dod`, as
    the hour is not known. A date more than a year before the last admission of the patient is an error and not used.
    after_death is 1 if the admission begins at or after the deathtime of an admission that began earlier or, where the
    patient has no deathtime, at or after death_time.

    Args:
        admissions: raw table, unique hadm_id.
        patients: raw table, unique subject_id; the patient of an admission may be missing.

    Returns:
        ADMISSIONS sorted by hadm_id.
    """
    rows = _with_errors(admissions, patients)
    recorded = pl.when(~pl.col("deathtime_is_error")).then("deathtime")
    rows = rows.with_columns(
        recorded=recorded,
        first=recorded.min().over("subject_id"),
        end_of_dod=pl.when(~pl.col("dod_is_error")).then(pl.col("dod") + DAY),
    )
    deaths = rows.drop_nulls("recorded").select("subject_id", began="admittime", died="recorded")
    later = rows.select("hadm_id", "subject_id", "admittime").join(deaths, on="subject_id", how="inner")
    later = later.filter((pl.col("began") < pl.col("admittime")) & (pl.col("died") <= pl.col("admittime")))
    by_deathtime = pl.col("hadm_id").is_in(later["hadm_id"].unique().implode())
    by_dod = (pl.col("first").is_null() & (pl.col("end_of_dod") <= pl.col("admittime"))).fill_null(False)
    table = rows.with_columns(
        death_time=pl.coalesce("first", "end_of_dod"), after_death=(by_deathtime | by_dod).cast(pl.Int8)
    )
    return check(table.select(ADMISSIONS.names).sort("hadm_id"), ADMISSIONS)


def _with_errors(admissions: pl.DataFrame, patients: pl.DataFrame) -> pl.DataFrame:
    """``admissions`` with dod, dod_is_error and deathtime_is_error: more than a year before the last admission."""
    rows = admissions.select("hadm_id", "subject_id", "admittime", "dischtime", "deathtime").join(
        patients.select("subject_id", "dod"), on="subject_id", how="left", validate="m:1", maintain_order="left"
    )
    last = pl.col("admittime").max().over("subject_id")
    errors = {
        f"{name}_is_error": (last - pl.col(name) > LONGEST_AFTER_DEATH).fill_null(False)
        for name in ("dod", "deathtime")
    }
    return rows.with_columns(**errors)


def inconsistencies(admissions: pl.DataFrame, patients: pl.DataFrame, table: pl.DataFrame) -> dict[str, int]:
    """Numbers of what does not fit together.

    Args:
        table: ADMISSIONS of the raw tables ``admissions`` and ``patients``.

    Returns:
        ``dod``: patients whose dod is an error; ``deathtime``: admissions whose deathtime is one; ``after_death``:
        admissions after the death; ``nested``: admissions that begin before the discharge of an earlier one.
    """
    rows = _with_errors(admissions, patients)
    ordered = table.sort("subject_id", "admittime", "hadm_id")
    # The latest discharge of all earlier admissions; a missing one changes nothing.
    known = pl.when(pl.col("admittime").is_not_null()).then("dischtime")
    discharged = known.cum_max().forward_fill().shift(1).over("subject_id")
    return {
        "dod": rows.filter("dod_is_error")["subject_id"].n_unique(),
        "deathtime": rows.filter("deathtime_is_error").height,
        "after_death": int(table["after_death"].sum()),
        "nested": ordered.filter(pl.col("admittime") < discharged).height,
    }


def count_inconsistencies(dropped: Dropped, numbers: dict[str, int], options: Options) -> None:
    """Add the numbers of `inconsistencies` to ``dropped``; ``_but_used`` where a label or a sample rests on them.

    dod decides the published readmission, deathtime the published death in hospital.
    """
    too_early = "over_a_year_before_admission"
    for table, column, reason, number, is_used in (
        ("patients", "dod", too_early, "dod", options.readmission == "kept_icu_stays"),
        ("admissions", "deathtime", too_early, "deathtime", options.death_label == "within_admission"),
        ("admissions", "", "after_death", "after_death", options.after_death == "kept"),
        ("admissions", "", "nested", "nested", options.nested == "counted"),
    ):
        count(dropped, table, column, f"{reason}_but_used" if is_used else reason, numbers[number])
