"""The split by time: who is in which split, who is in none, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builds import build
from support.paths import RAW

from flexcare_data.__main__ import main
from flexcare_data.config import load_config
from flexcare_data.plan import Plan
from flexcare_data.schema import SPLITS, check
from flexcare_data.stages.splits import SplitError, split_by_years
from flexcare_data.store.recipe import Recipe
from flexcare_data.tasks import TASKS

GROUPS = {"train": ["2008 - 2010", "2011 - 2013"], "val": ["2014 - 2016"], "test": ["2017 - 2019", "2020 - 2022"]}
LABELS = [*(group for groups in GROUPS.values() for group in groups), "2023 - 2025", None]


def frames(group_of: dict[int, str | None], admitted: list[int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Admissions in the given order, and patients."""
    schema = {"subject_id": pl.Int64, "anchor_year_group": pl.String}
    patients = pl.DataFrame(list(group_of.items()), schema=schema, orient="row")
    return pl.DataFrame({"subject_id": admitted}, schema={"subject_id": pl.Int64}), patients


@given(
    group_of=st.dictionaries(st.integers(1, 60), st.sampled_from(LABELS)),
    admitted=st.lists(st.integers(1, 70)),
)
def test_the_split_equals_a_recount(group_of, admitted):
    """Patient by patient; those in no split are counted, and only those with an admission."""
    group_of = group_of | {71: "2011 - 2013", 72: "2014 - 2016", 73: "2020 - 2022"}  # no split is empty
    admitted = [73, *admitted, 71, 72]
    expected, lost = {}, Counter()
    for subject in set(admitted):
        group = group_of.get(subject)
        split = next((split for split, groups in GROUPS.items() if group in groups), None)
        if split:
            expected[subject] = (split, group)
        else:
            lost["missing" if group is None else "in_no_split"] += 1
    dropped: dict = {}
    got = split_by_years(*frames(group_of, admitted), GROUPS, dropped)
    assert {subject: rest for subject, *rest in got.rows()} == {s: list(rest) for s, rest in expected.items()}
    assert dropped == ({"patients": {"anchor_year_group": dict(lost)}} if lost else {})
    check(got, SPLITS)


def test_without_the_column_the_message_says_so():
    admissions, patients = frames({1: None, 2: None}, [1, 2])
    with pytest.raises(SplitError, match="the column is absent or empty"):
        split_by_years(admissions, patients, GROUPS, {})


def test_an_empty_split_is_refused_and_the_groups_are_named():
    """Only published labels are shown, not what a damaged file may have in this column."""
    admissions, patients = frames({1: "2008 - 2010", 2: "2023 - 2025", 3: "Jane Doe"}, [1, 2, 3])
    with pytest.raises(SplitError) as caught:
        split_by_years(admissions, patients, GROUPS, {})
    said = str(caught.value)
    assert "got none in val, test" in said
    assert "Groups of the data: 2008 - 2010, 2023 - 2025." in said
    assert "val: 2014 - 2016; test: 2017 - 2019, 2020 - 2022" in said
    assert "Jane" not in said


def test_a_build_leaves_out_patients_without_a_split(tmp_path):
    """Subjects 4 (no group) and 9 (2005 - 2007) of tests/raw: counted, in no cohort, and the diagrams end with it."""
    built = build(RAW, tmp_path / "temporal", options={"split": "temporal"})
    published = build(RAW, tmp_path / "published")
    assert built.counts("splits", "dropped") == {"patients": {"anchor_year_group": {"missing": 1, "in_no_split": 1}}}
    assert built.counts("audit", "dropped")["patients"]["anchor_year_group"] == {"missing": 1, "in_no_split": 1}
    split_of = dict(built.table("splits", "splits.parquet").select("subject_id", "split").rows())
    assert set(split_of) == {1, 2, 3, 5, 6, 7, 8, 10}
    fewer = set()
    for task in TASKS:
        cohort, before = built.cohort(task), published.cohort(task)
        assert cohort.drop("split").equals(before.filter(~pl.col("subject_id").is_in([4, 9])).drop("split"))
        assert cohort["split"].to_list() == [split_of[subject] for subject in cohort["subject_id"]]
        flow = built.counts(f"cohort-{task}", "flow")[task]
        assert flow[-1]["samples"] == cohort.height
        last = "of patients with a split"
        assert (flow[-1]["step"] == last) == (cohort.height < before.height)
        assert last not in {step["step"] for step in published.counts(f"cohort-{task}", "flow")[task]}
        fewer |= {task} if cohort.height < before.height else set()
    assert {"drg", "readmission"} <= fewer


def test_the_groups_decide_the_key_only_where_they_are_used():
    other = {"temporal": {"train": ["2008 - 2010"], "val": ["2011 - 2013", "2014 - 2016"]}}
    keys = {
        (split, "other" if changes else "default"): Plan(
            load_config({"options": {"split": split}} | changes)
        ).product("hourly").key
        for split in ("hash", "temporal")
        for changes in ({}, other)
    }  # fmt: skip
    assert keys["hash", "default"] == keys["hash", "other"]
    assert len(set(keys.values())) == 3


def command(tmp_path: Path, *words: str, **config: object) -> tuple[list[str], Path]:
    """The command of the stage for tests/raw under ``config``, with its spec."""
    raw = {"mimiciv": str(RAW / "mimiciv")}
    plan = Plan(load_config({"raw": raw, "output": str(tmp_path), "options": {"split": "temporal"}, **config}))
    product = plan.product("splits")
    spec = tmp_path / "splits.json"
    Recipe("splits", product.spec).write(spec)
    given = ["splits", "--mimiciv", raw["mimiciv"], "--option", "split=temporal", *words]
    return [*given, "--spec", str(spec), "--out", str(product.folder)], product.folder


def test_the_command_takes_the_groups_of_the_configuration(tmp_path, capsys):
    """Other groups than those of the spec are refused, as are those of two splits at once."""
    config = {"temporal": {"train": ["2011 - 2013"], "val": ["2017 - 2019"], "test": ["2014 - 2016", "2020 - 2022"]}}
    words, folder = command(tmp_path, temporal=config["temporal"])
    assert main(words) == 1
    assert "settings test: expected ['2014 - 2016', '2020 - 2022'], got ['2017 - 2019'" in capsys.readouterr().err
    assert not folder.exists()
    groups = [word for split, names in config["temporal"].items() for name in names for word in (f"--{split}", name)]
    words, folder = command(tmp_path, *groups, temporal=config["temporal"])
    assert main(words) == 0
    frame = pl.read_parquet(folder / "splits.parquet")
    assert frame.filter(split="val")["subject_id"].to_list() == [3]
    assert json.loads((folder / "manifest.json").read_text())["spec"]["settings"] == config["temporal"]
    assert main(["splits", "--train", "2014 - 2016", "--out", str(tmp_path / "twice")]) == 2
    assert "expected each group once" in capsys.readouterr().err
