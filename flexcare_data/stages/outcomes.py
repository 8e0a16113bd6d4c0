"""Labels of mortality and readmission of each stay.

In: ICU stays joined to their admission and patient, all admissions. Out: the columns died_in_hospital, died_in_unit,
died and readmission of STAYS. The tasks in_hospital_mortality, decompensation and readmission read them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

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
    """Add readmission: 1, 0, or null where a patient cannot be readmitted.

    Published (`readmission: kept_icu_stays`): 1 if within 30 days of discharge another kept stay or the death follows,
    or if the patient died in hospital after leaving the unit; null after a death in the unit. `hospital`: 1 if any
    later admission follows within 30 days; null after a death in hospital.
    """
    hospital, unit, died = (pl.col(name) == 1 for name in ("died_in_hospital", "died_in_unit", "died"))
    if options.readmission == "hospital":
        later = admissions.sort("subject_id", "admittime", "hadm_id").select(
            "hadm_id", next_admittime=pl.col("admittime").shift(-1).over("subject_id")
        )
        stays = stays.join(later, on="hadm_id", how="left", validate="m:1", maintain_order="left")
        returned = soon_after_discharge(pl.col("next_admittime"))
        label = pl.when(~hospital).then(returned)
    else:
        following = stays.sort("subject_id", "admittime", "stay_id").select(
            "stay_id", next_admittime=pl.col("admittime").shift(-1).over("subject_id")
        )
        stays = stays.join(following, on="stay_id", how="left", validate="1:1", maintain_order="left")
        died_soon = died & ~hospital & ~unit & soon_after_discharge(pl.col("dod"))
        positive = (hospital & ~unit) | soon_after_discharge(pl.col("next_admittime")) | died_soon
        label = pl.when(~(died & hospital & unit)).then(positive)
    return stays.with_columns(readmission=label.cast(pl.Int8))


def soon_after_discharge(time: pl.Expr) -> pl.Expr:
    """Less than 30 days after dischtime; a time before it counts, a missing one does not."""
    return (time - pl.col("dischtime") < READMISSION_WINDOW).fill_null(False)
