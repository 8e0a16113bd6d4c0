"""Death within 24 hours of a drawn hour."""

from __future__ import annotations

import polars as pl

from flexcare_data.tasks.base import Cohort, Sources, Task, stays_with_series
from flexcare_data.tasks.deaths import own_deaths
from flexcare_data.tasks.drawn_hour import cohort_of_drawn_hours

HORIZON_HOURS = 24


def build(sources: Sources) -> Cohort:
    """A whole hour t of each stay, up to its length and to deathtime; label is death in hospital less than 24 h after.

    Option `asked` says whether t may be after a death that is known by dod only, and whether a deathtime more than a
    year before its own admission counts.
    """
    deaths = own_deaths(sources).select("hadm_id", "deathtime")
    stays = stays_with_series(sources).join(deaths, on="hadm_id", how="left", validate="1:1", maintain_order="left")
    stays = stays.with_columns(death_hours=(pl.col("deathtime") - pl.col("intime")).dt.total_seconds() / 3600.0)
    stays = stays.with_columns(last_hours=pl.min_horizontal("los_hours", "death_hours"))
    return cohort_of_drawn_hours(stays, TASK, sources, _dies_soon, about_death=True)


def _dies_soon(samples: pl.DataFrame) -> pl.Series:
    soon = (pl.col("death_hours") - pl.col("period_length") < HORIZON_HOURS).fill_null(False)
    return samples.select(label=(soon & (pl.col("died_in_hospital") == 1)).cast(pl.Int64))["label"]


TASK = Task(
    name="decompensation",
    abbreviation="DEC",
    id=1,
    order=3,
    kind="binary",
    labels=("label",),
    n_outputs=1,
    section="past_medical_history",
    loss_weight=0.2,
    description="death within 24 hours of a drawn hour",
    build=build,
    options=("sampling", "asked"),
)
