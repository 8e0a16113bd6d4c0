"""The items that fabricated tables chart: `chart_items.csv` and `lab_items.csv` beside this file.

In: nothing. Out: the dictionaries, and the pool of values of the items that no variable is made of (column `values`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from flexcare_data.package_files import package_file


@dataclass(frozen=True)
class Dictionary:
    """Items of one kind. ``pool`` has a row per (item, value) that is not made from a patient's state."""

    items: pl.DataFrame
    units: dict[int, str]
    pool_item: np.ndarray
    pool_value: tuple[str, ...]


@cache
def chart_items() -> Dictionary:
    return _read(package_file("flexcare_data/synthetic/chart_items.csv"))


@cache
def lab_items() -> Dictionary:
    return _read(package_file("flexcare_data/synthetic/lab_items.csv"))


def _read(path: Path) -> Dictionary:
    items = pl.read_csv(path, infer_schema=False).with_columns(pl.col("itemid").cast(pl.Int64))
    pool = items.select("itemid", pl.col("values").str.split("|")).drop_nulls().explode("values", empty_as_null=True)
    units = dict(items.filter(pl.col("valueuom").is_not_null()).select("itemid", "valueuom").iter_rows())
    return Dictionary(items, units, pool["itemid"].to_numpy(), tuple(pool["values"]))


GRADES: dict[int, tuple[tuple[str, ...], ...]] = {
    220739: (
        ("None", "1 No Response"), ("To Pain", "2 To pain"), ("To Speech", "3 To speech"),
        ("Spontaneously", "4 Spontaneously"),
    ),
    223901: (
        ("No response", "1 No Response"), ("Abnormal extension", "2 Abnorm extensn"),
        ("Abnormal Flexion", "3 Abnorm flexion"), ("Flex-withdraws", "4 Flex-withdraws"),
        ("Localizes Pain", "5 Localizes Pain"), ("Obeys Commands", "6 Obeys Commands"),
    ),
    223900: (
        ("No Response-ETT", "1.0 ET/Trach"), ("No Response", "1 No Response"),
        ("Incomprehensible sounds", "2 Incomp sounds"), ("Inappropriate Words", "3 Inapprop words"),
        ("Confused", "4 Confused"), ("Oriented", "5 Oriented"),
    ),
}  # fmt: skip
"""Spellings of the coma scale by item and grade, worst first: the usual one and the numbered one."""

UNKNOWN_GRADE = "Unable to score"
"""A spelling that no published list knows."""
