"""Count hours: the rows of an hourly grid, the tolerance within which two times are equal, the time after some hours.

Also how long after a death an admission can begin.

In: hours since `intime`. Out: numbers of rows; times.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl

TOLERANCE = 1e-6
"""Hours; times and ends that differ by less count as equal (published, 3.6 ms)."""
LONGEST_AFTER_DEATH = timedelta(days=365)
"""Donors are admitted again within days of their death. Who is admitted more than a year after a recorded death was
alive then, so that date is an error."""


def n_bins(end_hours: np.ndarray | float) -> np.ndarray:
    """Rows of a grid that ends at ``end_hours``: the last one may be part of an hour."""
    return np.maximum(np.trunc(np.asarray(end_hours, np.float64) + 1 - TOLERANCE), 0).astype(np.int64)


def hours_after(time: str, hours: str) -> pl.Expr:
    """The time ``hours`` (float hours) after ``time``, to the microsecond."""
    return pl.col(time) + pl.duration(microseconds=(pl.col(hours) * 3_600_000_000).round().cast(pl.Int64))


def end_of_stay() -> pl.Expr:
    """outtime; where it is not charted, intime and the length of the stay."""
    return pl.coalesce(pl.col("outtime"), hours_after("intime", "los_hours"))
