"""Questions about death, and patients who died before they are asked: in-hospital mortality and decompensation.

In: stays, ADMISSIONS. Out: stays with the time of death, samples of the living (option `asked`), when the answer of a
sample was known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from flexcare_data.hours import LONGEST_AFTER_DEATH
from flexcare_data.raw.tables import Dropped, count
from flexcare_data.schema import Flow

if TYPE_CHECKING:
    from flexcare_data.tasks.base import Sources, Task

ALIVE = "alive at the prediction time"
"""Step of the flow with `asked: alive`."""
DEAD = "dead_at_prediction_time"
"""Reason in the counts of what is left out."""


def own_deaths(sources: Sources) -> pl.DataFrame:
    """hadm_id, deathtime and death_time of ADMISSIONS; with `asked: alive` deathtime is null where it is an error.

    An error is a deathtime more than a year before its own admission. One that only a later admission contradicts still
    counts for its own. With `asked: always` deathtime is as recorded.
    """
    is_error = (pl.col("admittime") - pl.col("deathtime") > LONGEST_AFTER_DEATH).fill_null(False)
    counts = pl.lit(sources.options.asked == "always") | ~is_error
    return sources.deaths.select("hadm_id", "death_time", deathtime=pl.when(counts).then("deathtime"))


def with_death(stays: pl.DataFrame, sources: Sources) -> pl.DataFrame:
    """Add died_at: the deathtime of `own_deaths`, else death_time; null where no death is known."""
    died = own_deaths(sources).select("hadm_id", died_at=pl.coalesce("deathtime", "death_time"))
    return stays.join(died, on="hadm_id", how="left", validate="m:1", maintain_order="left")


def of_the_living(samples: pl.DataFrame, task: Task, sources: Sources, flow: Flow, dropped: Dropped) -> pl.DataFrame:
    """``samples`` by option `asked`; with `alive` those whose patient died before the prediction time are left out.

    A death at the prediction time is not before it. The others are counted in ``dropped`` in both cases.

    Args:
        samples: with died_at and prediction_time.
        flow: gets a step with `alive`.
    """
    dead = (pl.col("died_at") < pl.col("prediction_time")).fill_null(False)
    living = samples.filter(~dead)
    if sources.options.asked == "always":
        count(dropped, task.name, "", f"{DEAD}_but_asked", samples.height - living.height)
        return samples
    count(dropped, task.name, "", DEAD, samples.height - living.height)
    flow.append({"step": ALIVE, "samples": living.height})
    return living


def known_by_death() -> pl.Expr:
    """When the answer was known: at the death if that is the answer, or if it was before the prediction time."""
    return pl.when((pl.col("label") == 1) | (pl.col("died_at") < pl.col("prediction_time"))).then("died_at")
