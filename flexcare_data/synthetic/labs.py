"""Laboratory results: labevents of all admissions, in the unit and on the ward, and some of outpatients.

In: a `Population` and a range of its admissions. Out: their rows, sorted by patient, time and specimen. Labs show no
planted factor, as the published standardisation leaves nothing of glucose and pH to learn from.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from flexcare_data.synthetic.chart import moments, null_where, number_text
from flexcare_data.synthetic.items import lab_items
from flexcare_data.synthetic.population import Population, generator

PANEL_HOURS = 9.0
"""Mean time between two blood draws of an admission."""
_GLUCOSE_TEXTS = ("ERROR", ">500", "___", "GREATER THAN 500.")
_URINE = ("NEG", "TR", "150", "300", "1000")


def labevents(
    people: Population, start: int, stop: int, *, seed: int, panel_hours: float = PANEL_HOURS, first_id: int = 0
) -> pl.DataFrame:
    """Rows of the admissions ``start`` to ``stop`` (positions in ``people.admissions``), ids after ``first_id``."""
    rng = generator(seed, 3, start)
    admissions = people.admissions[start:stop]
    begin = admissions["admittime"].dt.epoch("s").to_numpy()
    end = np.maximum(admissions["dischtime"].dt.epoch("s").to_numpy(), begin + 3600)
    # From a day before admission (no hadm_id then) to a day after.
    count = np.maximum(2, np.ceil(((end - begin) / 3600 + 48) / panel_hours)).astype(np.int64)
    visit = np.repeat(np.arange(admissions.height), count)
    k = np.arange(len(visit)) - np.repeat(np.cumsum(count) - count, count)
    clock = begin[visit] - 86400 + ((k + rng.random(len(visit))) * panel_hours * 3600).astype(np.int64)
    clock = clock // 60 * 60
    draws = _draws(rng, len(visit))
    draw, item, value = (np.concatenate(part) for part in zip(*draws, strict=True))
    order = np.lexsort((item, draw, clock[draw], visit[draw]))
    draw, item, value = draw[order], item[order], value[order]
    inside = (clock >= begin[visit]) & (clock <= end[visit])
    # Specimens that were recorded without the admission, also inside of it.
    unbooked = ~inside | (rng.random(len(visit)) < 0.08)
    n = len(draw)
    text = pl.Series(value).replace("", None)
    low = rng.random(n) < 0.001
    text = pl.select(pl.when(pl.Series(low)).then(pl.lit("___")).otherwise(text)).to_series()
    numeric = pl.select(pl.when(text.str.contains(r"^-?\d+(\.\d+)?$")).then(text)).to_series()
    items = lab_items().items.select("itemid", "valueuom", "ref_range_lower", "ref_range_upper")
    details = pl.DataFrame({"itemid": item}).join(items, on="itemid", how="left", validate="m:1", maintain_order="left")
    specimen = rng.integers(0, 80_000_000, len(visit))
    return pl.DataFrame({
        "labevent_id": first_id + 1 + np.arange(n),
        "subject_id": admissions["subject_id"].to_numpy()[visit[draw]],
        "hadm_id": null_where(admissions["hadm_id"].to_numpy()[visit[draw]], unbooked[draw]),
        "specimen_id": 10_000_000 + specimen[draw],
        "itemid": item,
        "order_provider_id": null_where(np.array([f"P{j:05d}" for j in range(40)])[draw % 40], draw % 3 == 0),
        "charttime": moments(clock[draw]),
        "storetime": moments(clock[draw] + 3600 + 60 * (draw % 50)),
        "value": text,
        "valuenum": numeric,
        "valueuom": details["valueuom"],
        "ref_range_lower": details["ref_range_lower"],
        "ref_range_upper": details["ref_range_upper"],
        "flag": null_where(np.full(n, "abnormal"), rng.random(n) < 0.6),
        "priority": np.where(draw % 2 == 0, "STAT", "ROUTINE"),
        "comments": null_where(np.full(n, "___"), rng.random(n) < 0.98),
    })  # fmt: skip


def _draws(rng, n: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(draw, itemid, text) of all results of ``n`` blood draws."""
    items = lab_items()
    found = []

    def result(share, item, number, decimals):
        chosen = np.flatnonzero(rng.random(n) < share)
        text = number_text(number[chosen], np.full(len(chosen), decimals)).to_numpy()
        found.append((chosen, np.full(len(chosen), item), text.astype(object)))

    def words(share, item, texts):
        chosen = np.flatnonzero(rng.random(n) < share)
        found.append(
            (chosen, np.full(len(chosen), item), np.array(texts, object)[rng.integers(0, len(texts), len(chosen))])
        )

    sugar = 118 + np.abs(30 * rng.standard_normal(n))
    acid = 7.38 + 0.04 * rng.standard_normal(n)
    result(0.8, 50931, sugar, 0)
    result(0.15, 50809, sugar + 3, 0)
    result(0.12, 50817, np.minimum(96 + 2 * rng.standard_normal(n), 100), 0)
    result(0.004, 50817, np.full(n, 0.97), 2)
    result(0.25, 50820, acid, 2)
    result(0.01, 50831, acid + 0.1, 2)
    result(0.01, 51094, 5 + np.round(rng.random(n) * 3), 0)
    result(0.06, 51491, 5 + np.round(rng.random(n) * 6) / 2, 1)
    words(0.06, 51478, ("", *_URINE))
    words(0.01, 50931, _GLUCOSE_TEXTS)
    words(0.006, 50820, ("___", "ERROR", "7.4 ?"))
    pool = np.array(items.pool_value, object)
    for item in np.unique(items.pool_item):
        words(0.75, int(item), tuple(pool[items.pool_item == item]))
    return found
