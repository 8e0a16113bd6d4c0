"""Flow diagrams of the cohorts: the counts after each step, with small differences hidden.

In: `data/flow.json` and the cohorts of `Results`, the count below which a cell is suppressed. Out: `FlowStep`s.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers.results import SPLITS, Results
from flexcare_model.report.numbers.suppression import funnel_texts, is_count, is_small, partition_texts

FLOW_TITLES = {
    "stays": "ICU stays",
    "chartevents": "Charted events",
    "labevents": "Laboratory events",
    "series": "Time series",
    "discharge": "Discharge summaries",
    "radiology": "Radiology reports",
    "radiographs": "Radiographs",
}
"""Diagrams before those of the cohorts, in their order, with their titles."""


@dataclass(frozen=True)
class FlowStep:
    """One step of a flow diagram: its name and printed counts by unit; a text is None where it may not be shown."""

    title: str
    counts: tuple[tuple[str, str | None], ...]


def flow_diagrams(results: Results, *, below: int) -> dict[str, list[FlowStep]]:
    """Flow steps of `data/flow.json` by cohort (`stays` first); empty where the file is absent.

    A diagram may begin with the last count of another one, and it ends with a cohort whose size the tables show. A
    count is left out if its difference to a shown count is small.
    """
    shown = _sizes_in_tables(results, below)
    written = results.json("data/flow.json") or {}
    order = [*FLOW_TITLES, *TASKS]
    diagrams = {}
    for name in sorted(written, key=lambda key: (order.index(key) if key in order else len(order), key)):
        steps = [step for step in written[name] if isinstance(step, dict) and "step" in step]
        units = list(dict.fromkeys(unit for step in steps for unit in step if unit != "step"))
        # Steps of one diagram may count different units; each unit has a separate funnel.
        texts: dict[str, dict[int, str | None]] = {}
        for unit in units:
            has = [index for index, step in enumerate(steps) if unit in step]
            counts, family = [int(steps[i][unit]) for i in has], _FAMILY.get(unit, unit)
            texts[unit] = dict(zip(has, funnel_texts(counts, below, shown.get(family, ())), strict=True))
            exact = {count for count, text in zip(counts, texts[unit].values(), strict=True) if is_count(text)}
            shown.setdefault(family, set()).update(exact)
        diagrams[name] = [
            FlowStep(str(step["step"]), tuple((unit, texts[unit][index]) for unit in units if unit in step))
            for index, step in enumerate(steps)
        ]
    return diagrams


_FAMILY = {"samples": "stays"}
"""Units treated as one, because in most cohorts one sample is one stay."""


def _sizes_in_tables(results: Results, below: int) -> dict[str, set[int]]:
    """Counts that the tables of a page show: samples of each cohort, and patients where the splits show them."""
    samples: set[int] = set()
    patients: set[int] = set()
    splits = results.parquet("data/splits.parquet")
    if splits is not None:
        patients.add(splits.height)
    for cohort in results.cohorts.values():
        samples.add(cohort.height)
        parts = [cohort.filter(pl.col("split") == split)["subject_id"].n_unique() for split in SPLITS]
        if all(map(is_count, partition_texts(parts, below))):
            patients.add(sum(parts))
    return {
        "stays": {n for n in samples if not is_small(n, below)},
        "patients": {n for n in patients if not is_small(n, below)},
    }
