"""A fitted scaler that shows implausible values: a single outlier is found, plausible values never are."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from support.builds import build

from flexcare_data.options import PROTOCOLS, Options, cautions
from flexcare_data.scaler import implausible, warning
from flexcare_data.stages.hourly import mimic3_scaler
from flexcare_data.synthetic.write import write_data_set
from flexcare_data.variables import CONTINUOUS, VARIABLE


def scaler(**std: float) -> dict:
    return {"source": "train", "columns": list(std), "mean": [0.0] * len(std), "std": list(std.values()), "n_hours": 1}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_no_plausible_values_are_reported(name):
    """Half of the values at either limit have the largest deviation; anything more is none of plausible values."""
    low, *_, high = VARIABLE[name].limits
    std = float(np.std([low] * 500 + [high] * 500))
    assert implausible(scaler(**{name: std * 0.999})) == []
    (found,) = implausible(scaler(**{name: std * 1.001}))
    assert (found.variable, found.highest) == (name, pytest.approx(std))


def test_the_published_scaler_is_not_judged():
    """Its oxygen saturation has a deviation of 5135, by design."""
    assert implausible(mimic3_scaler()) == []
    assert {found.variable for found in implausible(mimic3_scaler() | {"source": "train"})} >= {"oxygen_saturation"}


def test_a_combination_that_is_not_meant_is_named():
    (line,) = cautions(Options(scaler="train"))
    assert "407,016 for height" in line and "ranges: on" in line
    assert cautions(Options(scaler="train", ranges="on")) == cautions(Options(ranges="on")) == []
    assert [cautions(options) for options in PROTOCOLS.values()] == [[], []]


@pytest.mark.parametrize("ranges", ["off", "on"])
def test_a_single_outlier(ranges: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    """One height of 10 million cm among thousands of hours."""
    write_data_set(tmp_path / "raw", patients=15, seed=2, edition="2.2")
    path = tmp_path / "raw/mimiciv/icu/chartevents.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    options = {"scaler": "train", "ranges": ranges}
    plain = build(tmp_path / "raw", tmp_path / "plain", options=options, tasks=(), with_audit=False)
    assert implausible(json.loads((plain.folder("hourly") / "scaler.json").read_text())) == []
    assert "warning: scaler" not in capsys.readouterr().err
    # A value of a train stay in the first hours of its grid.
    splits = plain.table("splits", "splits.parquet").filter(split="train")["subject_id"]
    events = plain.table("events", "events.parquet").filter(variable="height")
    stays = plain.table("stays", "stays.parquet").join(events.select("stay_id").unique(), on="stay_id")
    stay = str(stays.filter(stays["subject_id"].is_in(splits.implode()))["stay_id"][0])
    changed = next(row for row in rows if row["itemid"] in ("226707", "226730") and row["stay_id"] == stay)
    changed["value"] = changed["valuenum"] = "10000000"
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    built = build(tmp_path / "raw", tmp_path / "built", options=options, tasks=(), with_audit=False)
    found = implausible(json.loads((built.folder("hourly") / "scaler.json").read_text()))
    shown = capsys.readouterr().err
    assert [of.variable for of in found] == (["height"] if ranges == "off" else [])
    assert all(f"warning: {warning(of)}" in shown for of in found)
    assert "10000000" not in shown
