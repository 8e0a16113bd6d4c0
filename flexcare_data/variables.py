"""The 17 clinical variables, their values and the 76 columns of the model input.

In: `resources/items.csv`. Out: names, categories and columns, in the published order (FlexCare's discretiser).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RESOURCES = Path(__file__).resolve().parent / "resources"

VARIABLES: tuple[str, ...] = (
    "capillary_refill_rate",
    "diastolic_blood_pressure",
    "fraction_inspired_oxygen",
    "gcs_eye",
    "gcs_motor",
    "gcs_total",
    "gcs_verbal",
    "glucose",
    "heart_rate",
    "height",
    "mean_blood_pressure",
    "oxygen_saturation",
    "respiratory_rate",
    "systolic_blood_pressure",
    "temperature",
    "weight",
    "ph",
)
"""In the order of the input columns and of the observation masks."""

CATEGORIES: dict[str, tuple[str, ...]] = {
    "capillary_refill_rate": ("0.0", "1.0"),
    "gcs_eye": (
        "To Pain", "3 To speech", "1 No Response", "4 Spontaneously", "None", "To Speech", "Spontaneously", "2 To pain",
    ),
    "gcs_motor": (
        "1 No Response", "3 Abnorm flexion", "Abnormal extension", "No response", "4 Flex-withdraws",
        "Localizes Pain", "Flex-withdraws", "Obeys Commands", "Abnormal Flexion", "6 Obeys Commands",
        "5 Localizes Pain", "2 Abnorm extensn",
    ),
    "gcs_total": ("11", "10", "13", "12", "15", "14", "3", "5", "4", "7", "6", "9", "8"),
    "gcs_verbal": (
        "1 No Response", "No Response", "Confused", "Inappropriate Words", "Oriented", "No Response-ETT",
        "5 Oriented", "Incomprehensible sounds", "1.0 ET/Trach", "4 Confused", "2 Incomp sounds", "3 Inapprop words",
    ),
}  # fmt: skip
"""One-hot values of the categorical variables, in column order."""

CONTINUOUS: tuple[str, ...] = tuple(name for name in VARIABLES if name not in CATEGORIES)
"""The 12 variables with one numeric column each; only these are standardised."""

DEFAULTS: dict[str, float | str] = {
    "capillary_refill_rate": "0.0",
    "diastolic_blood_pressure": 59.0,
    "fraction_inspired_oxygen": 0.21,
    "gcs_eye": "4 Spontaneously",
    "gcs_motor": "6 Obeys Commands",
    "gcs_total": "15",
    "gcs_verbal": "5 Oriented",
    "glucose": 128.0,
    "heart_rate": 86.0,
    "height": 170.0,
    "mean_blood_pressure": 77.0,
    "oxygen_saturation": 98.0,
    "respiratory_rate": 19.0,
    "systolic_blood_pressure": 118.0,
    "temperature": 36.6,
    "weight": 81.0,
    "ph": 7.4,
}
"""The value before the first charted one (published normal values)."""

COLUMNS: tuple[str, ...] = tuple(
    column
    for name in VARIABLES
    for column in ([f"{name}={text}" for text in CATEGORIES[name]] if name in CATEGORIES else [name])
) + tuple(f"observed:{name}" for name in VARIABLES)
"""Names of the 76 input columns: 59 values, then 17 masks."""

GRADES: dict[str, dict[str, int]] = {
    "gcs_eye": {
        "1 No Response": 1, "None": 1, "2 To pain": 2, "To Pain": 2, "3 To speech": 3, "To Speech": 3,
        "4 Spontaneously": 4, "Spontaneously": 4,
    },
    "gcs_motor": {
        "1 No Response": 1, "No response": 1, "2 Abnorm extensn": 2, "Abnormal extension": 2, "3 Abnorm flexion": 3,
        "Abnormal Flexion": 3, "4 Flex-withdraws": 4, "Flex-withdraws": 4, "5 Localizes Pain": 5, "Localizes Pain": 5,
        "6 Obeys Commands": 6, "Obeys Commands": 6,
    },
    "gcs_verbal": {
        "1 No Response": 1, "No Response": 1, "1.0 ET/Trach": 1, "No Response-ETT": 1, "2 Incomp sounds": 2,
        "Incomprehensible sounds": 2, "3 Inapprop words": 3, "Inappropriate Words": 3, "4 Confused": 4, "Confused": 4,
        "5 Oriented": 5, "Oriented": 5,
    },
}  # fmt: skip
"""Grade of each known GCS spelling (Teasdale 1974). An intubated patient has verbal grade 1."""

MERGED_SPELLINGS: dict[str, dict[str, str]] = {
    variable: {
        text: next(
            numbered
            for numbered in CATEGORIES[variable]
            # A tube and silence share grade 1 but stay two categories.
            if numbered[0].isdigit()
            and grades[numbered] == grade
            and ("Trach" in numbered) == (text in ("No Response-ETT", "1.0 ET/Trach"))
        )
        for text, grade in grades.items()
    }
    for variable, grades in GRADES.items()
}
"""Numbered spelling that stands for each spelling (option `gcs_spellings: merged`)."""


@dataclass(frozen=True)
class Item:
    """An itemid that carries a variable: its unit as charted, its fluid, the option that it needs."""

    itemid: int
    table: str
    variable: str
    unit: str
    fluid: str
    option: str


@cache
def items() -> tuple[Item, ...]:
    """The items of `resources/items.csv`. Other itemids of the published map are MIMIC-III's and do not occur."""
    with (RESOURCES / "items.csv").open(newline="") as file:
        return tuple(Item(itemid=int(row.pop("itemid")), **row) for row in csv.DictReader(file))
