"""Labels of mortality and readmission of each stay.

In: ICU stays joined to their admission and patient, all admissions. Out: the columns died_in_hospital, died_in_unit,
died, readmission and readmission_time of STAYS. The tasks in_hospital_mortality, decompensation and readmission read
them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from flexcare_data.hours import end_of_stay

if TYPE_CHECKING:
    from flexcare_data.options import Options

READMISSION_WINDOW = timedelta(days=30)
"""CMS counts readmissions within 30 days of discharge."""


def with_mortality(stays: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Add died_in_hospital, died_in_unit and died, 0 or 1. ``dod`` is a date: its time is midnight."""
    if options.death_label == "expire_flag":
        in_hospital = pl.col("hospital_expire_flag") == 1
    else:
        # dischtime is often midnight of the day of death: then deathtime is after it.
        in_hospital = pl.col("deathtime").is_between("admittime", "dischtime")
    in_unit = _either(
        pl.col("dod").is_between("intime", "outtime"), pl.col("deathtime").is_between("intime", "outtime")
    )
    died = pl.col("dod").is_not_null() | pl.col("deathtime").is_not_null()
    return stays.with_columns(
        died_in_hospital=in_hospital.fill_null(False).cast(pl.Int8),
        died_in_unit=in_unit.cast(pl.Int8),
        died=died.cast(pl.Int8),
    )


def _either(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    return a.fill_null(False) | b.fill_null(False)


def with_readmission(stays: pl.DataFrame, admissions: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Add readmission: 1, 0, or null where a patient cannot be readmitted; and readmission_time, null unless it is 1.

    Published (`readmission: kept_icu_stays`): 1 if within 30 days of discharge another kept stay or the death follows,
    or if the patient died in hospital after leaving the unit; null after a death in the unit. `hospital`: 1 if any
    later admission follows within 30 days; null after a death in hospital. `_next_admission` says which admission is
    the next one.

    Args:
        admissions: those that can be a readmission.
    """
    hospital, unit, died = (pl.col(name) == 1 for name in ("died_in_hospital", "died_in_unit", "died"))
    returned = soon_after_discharge(pl.col("next_admittime"))
    if options.readmission == "hospital":
        stays = _next_admission(stays, admissions, "hadm_id", options)
        label, time = pl.when(~hospital).then(returned), pl.col("next_admittime")
    else:
        stays = _next_admission(stays, stays, "stay_id", options)
        after_unit = hospital & ~unit
        died_soon = died & ~hospital & ~unit & soon_after_discharge(pl.col("dod"))
        label = pl.when(~(died & hospital & unit)).then(after_unit | returned | died_soon)
        # dod is a date: all that is known is that the patient had died by the end of the day.
        death = pl.coalesce(pl.col("deathtime"), pl.col("dod") + timedelta(days=1))
        time = pl.min_horizontal(pl.when(returned).then("next_admittime"), pl.when(after_unit | died_soon).then(death))
    return stays.with_columns(readmission=label.cast(pl.Int8), readmission_time=pl.when(label).then(time))


def _next_admission(stays: pl.DataFrame, candidates: pl.DataFrame, key: str, options: Options) -> pl.DataFrame:
    """Add next_admittime of the next of ``candidates`` of the same patient; null where there is none.

    Published (`nested: counted`): the next one by admittime, also before the discharge. `ignored`: the first one at or
    after the discharge and the end of the stay, as what begins earlier is known when the question is asked.

    Args:
        candidates: subject_id, admittime and ``key``, which also names the own row of a stay.
    """
    if options.nested == "counted":
        ordered = candidates.sort("subject_id", "admittime", key)
        following = ordered.select(key, next_admittime=pl.col("admittime").shift(-1).over("subject_id"))
    else:
        end = pl.when(pl.col("dischtime").is_not_null()).then(pl.max_horizontal("dischtime", end_of_stay()))
        asked = stays.select(key, "subject_id", began="admittime", end=end)
        others = candidates.select("subject_id", "admittime", other=key)
        pairs = asked.join(others, on="subject_id", how="inner").filter(
            (pl.col("other") != pl.col(key))
            & (pl.col("admittime") >= pl.col("end"))
            & (pl.col("admittime") >= pl.col("began"))  # a discharge before its own admission is an error
        )
        following = pairs.group_by(key).agg(next_admittime=pl.col("admittime").min())
    return stays.join(following, on=key, how="left", validate="m:1", maintain_order="left")


def soon_after_discharge(time: pl.Expr) -> pl.Expr:
    """Less than 30 days after dischtime; a time before it counts, a missing one does not."""
    return (time - pl.col("dischtime") < READMISSION_WINDOW).fill_null(False)
