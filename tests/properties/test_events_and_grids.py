"""Random small tables: events and grids equal a row-by-row recount, whatever the order of rows and the texts."""

from __future__ import annotations

import csv
import math
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import events as recounted

from flexcare_data.options import Options
from flexcare_data.series import expand
from flexcare_data.stages.events.build import build_events
from flexcare_data.stages.hourly import StayEvents, grids
from flexcare_data.variables import CATEGORIES, VARIABLES

START = datetime(2180, 2, 28, 22)
ITEMS = (
    220045, 220210, 220052, 220051, 220050, 223835, 220739, 223901, 223900, 220621, 220277, 226707, 226730, 223761,
    223762, 226512, 226531, 223830, 223951, 224308, 220046,
)  # fmt: skip
LABS = (50931, 51478, 50817, 50820, 51491, 50811)
TEXTS = (
    "98", "102", "98.0", " 98 ", "1", "0.5", ".5", "7.", "0", "-3", "1e2", "1,5", "", "None", "NaN", "inf", "ERROR",
    ">500", "120/80", "120/", "79", "78.9", "400", "99999", "4 Spontaneously", "Spontaneously", "1 No Response",
    "No Response", "To Pain", "6 Obeys Commands", "1.0 ET/Trach", "No Response-ETT", "5 Oriented", "Confused",
    "Normal <3 Seconds", "Abnormal >3 Seconds", 'said "98"', "98\n", "two\nlines",
)  # fmt: skip
STAY_IDS = {1: (30, 20), 2: (10,), 3: (50, 40, 60)}
"""stay_ids by subject; each stay has the hadm_id 100 + stay_id, so that the two orders differ in subject 1."""


@st.composite
def kept_stays(draw: st.DrawFn) -> list[dict]:
    stays = []
    for subject, ids in STAY_IDS.items():
        for stay_id in ids:
            intime = START + timedelta(minutes=draw(st.sampled_from([0, 30, 61, 600])))
            length = draw(st.sampled_from([None, 30, 240, 900]))
            outtime = intime + timedelta(minutes=length) if length is not None else None
            row = {"stay_id": stay_id, "subject_id": subject, "hadm_id": 100 + stay_id}
            stays.append(row | {"intime": intime, "outtime": outtime})
    return sorted(stays, key=lambda stay: stay["stay_id"])


def rows_of(items: tuple[int, ...], *, with_stay: bool) -> st.SearchStrategy[list[dict]]:
    ids = [stay_id for stays in STAY_IDS.values() for stay_id in stays]
    columns = {
        "subject_id": st.sampled_from([1, 1, 2, 3, 3, 4]),
        "hadm_id": st.sampled_from(["", 7, *(100 + stay_id for stay_id in ids)]),
        "charttime": st.sampled_from([-90, 0, 30, 31, 60, 61, 240, 630, 2000]).map(
            lambda minutes: str(START + timedelta(minutes=minutes))
        ),
        "storetime": st.sampled_from([None, -200, 0, 45, 61, 700, 9000]).map(
            lambda minutes: "" if minutes is None else str(START + timedelta(minutes=minutes))
        ),
        "itemid": st.sampled_from(items),
        "value": st.sampled_from(TEXTS),
    }
    if with_stay:
        columns["stay_id"] = st.sampled_from(["", "", "", *ids])
    return st.lists(st.fixed_dictionaries(columns), max_size=40)


def alone() -> st.SearchStrategy[Options]:
    fields = ("duplicates", "ranges", "fluids", "fio2", "height", "lab_without_hadm", "capillary_refill", "gcs_total")
    values = {name: st.sampled_from(list(Options.model_fields[name].annotation.__args__)) for name in fields}
    return st.fixed_dictionaries(values).map(lambda chosen: Options(**chosen))


def write_csv(path: Path, rows: list[dict], columns: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    kept_stays(),
    rows_of(ITEMS, with_stay=True),
    rows_of(LABS, with_stay=False),
    alone(),
    st.randoms(use_true_random=False),
)
def test_events_equal_the_recount(stays, chart, lab, options, shuffling):
    columns = ["subject_id", "hadm_id", "charttime", "storetime", "itemid", "value"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_csv(root / "icu" / "chartevents.csv", chart, ["stay_id", *columns])
        write_csv(root / "hosp" / "labevents.csv", lab, columns)
        expected, tally = recounted.build_events(root, stays, options.model_dump())
        recounted.events.cache_clear()
        shuffling.shuffle(chart)
        write_csv(root / "icu" / "chartevents.csv", chart, ["stay_id", *columns])
        tables = {"chartevents": root / "icu" / "chartevents.csv", "labevents": root / "hosp" / "labevents.csv"}
        scratch = root / "scratch"
        scratch.mkdir()
        frame = pl.DataFrame(stays, schema_overrides={"outtime": pl.Datetime("us")})
        counts = build_events(tables, frame, options, out=root / "events.parquet", scratch=scratch)
        got = pl.read_parquet(root / "events.parquet").rows()
    want = [
        (stay_id, row["hours"], variable, text, number, row["stored"][variable])
        for stay_id in sorted(expected)
        for row in expected[stay_id]
        for variable, (text, number) in sorted(row["values"].items())
    ]
    assert [row[:3] for row in got] == [row[:3] for row in want]
    if options.duplicates == "mean":
        assert [row[5] for row in got] == [row[5] for row in want]
        assert all(math.isclose(a[4], b[4], rel_tol=1e-13) for a, b in zip(got, want, strict=True))
    else:
        assert got == want
    for name, rows in (("chartevents", chart), ("labevents", lab)):
        steps = {step["step"]: step["rows"] for step in counts.flow[name]}
        dropped = sum(sum(reasons.values()) for reasons in counts.dropped.get(name, {}).values())
        assert steps["rows read"] == len(rows)
        assert steps["rows used"] == tally[name]["used"] == len(rows) - dropped


def times() -> st.SearchStrategy[float]:
    """Hours around whole ones, where the tolerance of 1e-6 decides, and any second."""
    near = st.tuples(st.integers(-1, 6), st.sampled_from([0.0, 1e-7, -1e-7, 3e-6, -3e-6, 0.5])).map(sum)
    return near | st.integers(-7200, 25000).map(lambda seconds: seconds / 3600)


def values() -> st.SearchStrategy[dict[str, tuple[str, float]]]:
    """Values charted at one time: text and number by variable."""

    def value(variable: str) -> st.SearchStrategy[tuple[str, float]]:
        if variable not in CATEGORIES:
            return st.floats(-10, 500).map(lambda number: ("", number))
        if variable in ("capillary_refill_rate", "gcs_total"):
            return st.sampled_from(CATEGORIES[variable]).map(lambda text: (text, float(text)))
        return st.sampled_from(CATEGORIES[variable]).map(lambda text: (text, 0.0))

    names = st.sets(st.sampled_from(VARIABLES), min_size=1, max_size=4)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: value(name) for name in sorted(chosen)}))


series = st.dictionaries(times(), values(), max_size=12).map(
    lambda charted: [{"hours": hours, "values": charted[hours]} for hours in sorted(charted)]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(series, times().filter(lambda end: end > 0)), min_size=1, max_size=3),
    st.sampled_from(["right", "left"]),
    st.sampled_from(["as_charted", "inches_converted"]),
)
def test_grids_equal_the_recount(stays, edges, height):
    options = Options(edges=edges, height=height)
    events = [
        (
            hours_of["hours"],
            VARIABLES.index(name),
            float(CATEGORIES[name].index(text)) if name in CATEGORIES else number,
        )
        for rows, _ in stays
        for hours_of in rows
        for name, (text, number) in hours_of["values"].items()
    ]
    sizes = [sum(len(row["values"]) for row in rows) for rows, _ in stays]
    hours, variable, cell = zip(*events, strict=True) if events else ((), (), ())
    part = StayEvents(
        np.arange(len(stays)),
        np.cumsum([0, *sizes]).astype(np.int64),
        np.array(hours, np.float64),
        np.array(hours, np.float64),
        np.array(variable, np.int8),
        np.array(cell, np.float64),
    )
    matrix = expand(*grids(part, np.arange(len(stays)), np.array([end for _, end in stays]), options))
    want = [row for rows, end in stays for row in recounted.matrix(rows, end, options.model_dump())]
    assert np.array_equal(matrix, np.array(want).reshape(-1, matrix.shape[1]))
