"""Assign patients to train, val and test, once for all tasks and modalities: 7:1:2 at random, or by groups of years.

In: admissions in file order; for `split: temporal` also patients. Out: SPLITS.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from flexcare_data.draws import keyed_share
from flexcare_data.errors import UserError
from flexcare_data.raw.tables import Dropped, count, empty_counts
from flexcare_data.schema import SPLIT, SPLIT_NAMES, SPLITS, check
from flexcare_data.stages.work import StageWork, write_counts

if TYPE_CHECKING:
    from flexcare_data.options import Options

TEST_SHARE, VAL_SHARE = 0.2, 0.1


class SplitError(UserError):
    """The patients cannot be split by groups of years."""


def build_splits(admissions: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The split of every patient with an admission.

    ``shuffle42`` (published): patients in order of first appearance are paired with a shuffled list of splits.
    ``hash``: the split is computed from the subject_id alone, so that a patient keeps it in every edition.
    """
    subjects = admissions["subject_id"].unique(maintain_order=True).to_list()
    names = _shuffled(len(subjects)) if options.split == "shuffle42" else [_hashed(subject) for subject in subjects]
    frame = pl.DataFrame({"subject_id": subjects, "split": names}, schema={"subject_id": pl.Int64, "split": SPLIT})
    return check(frame.sort("subject_id"), SPLITS)


def _shuffled(n: int) -> list[str]:
    n_test, n_val = int(TEST_SHARE * n), int(VAL_SHARE * n)
    names = ["test"] * n_test + ["val"] * n_val + ["train"] * (n - n_test - n_val)
    random.Random(42).shuffle(names)
    return names


def _hashed(subject_id: int) -> str:
    share = keyed_share("split", subject_id)
    return "test" if share < TEST_SHARE else "val" if share < TEST_SHARE + VAL_SHARE else "train"


def split_by_years(
    admissions: pl.DataFrame, patients: pl.DataFrame, groups: Mapping[str, Sequence[str]], dropped: Dropped
) -> pl.DataFrame:
    """The split of every patient with an admission, by the patient's ``anchor_year_group`` (`split: temporal`).

    Dates are shifted by patient. The group is all that is published of the real year, and each patient has one. It is
    the group of the patient's ``anchor_year``: a later admission of the same patient is in the same split.

    Args:
        admissions: with subject_id.
        patients: subject_id (unique), anchor_year_group.
        groups: of each split; no group is in two.
        dropped: counts the patients in no split: without a group, or with one that no split has.

    Raises:
        SplitError: if no patient has a group, or a split has no patients.
    """
    split_of = {group: split for split in SPLIT_NAMES for group in groups[split]}
    known = patients.select("subject_id", year_group=pl.col("anchor_year_group").str.strip_chars())
    frame = (
        admissions.select(pl.col("subject_id").unique())
        .join(known, on="subject_id", how="left", validate="1:1")
        .with_columns(split=pl.col("year_group").replace_strict(split_of, default=None, return_dtype=SPLIT))
    )
    missing = frame["year_group"].null_count()
    if missing == frame.height:
        raise SplitError(
            "splits: expected patients with a text in column anchor_year_group, got none: the column is absent or "
            "empty. `split: temporal` needs it; set another value of option split"
        )
    kept = frame.drop_nulls("split")
    if empty := [split for split in SPLIT_NAMES if not (kept["split"] == split).any()]:
        # Anything else in this column is not a published label and is not shown.
        found = sorted(
            group for group in set(frame["year_group"].drop_nulls()) if re.fullmatch(r"\d{4} - \d{4}", group)
        )
        sought = "; ".join(f"{split}: {', '.join(groups[split])}" for split in SPLIT_NAMES)
        raise SplitError(
            f"splits: expected patients in every split, got none in {', '.join(empty)}. Groups of the data: "
            f"{', '.join(found) or 'none'}. Groups of section temporal of the configuration: {sought}"
        )
    count(dropped, "patients", "anchor_year_group", "missing", missing)
    count(dropped, "patients", "anchor_year_group", "in_no_split", frame.height - missing - kept.height)
    return check(kept.select(*SPLITS.names, "year_group").sort("subject_id"), SPLITS)


def run(work: StageWork) -> None:
    """Stage `splits`: splits.parquet. What was dropped of the admissions is counted by `stays`."""
    admissions, dropped = work.read("admissions", empty_counts()), empty_counts()
    if work.options.split == "temporal":
        groups = {split: work.settings[split] for split in SPLIT_NAMES}
        splits = split_by_years(admissions, work.read("patients", empty_counts()), groups, dropped)
    else:
        splits = build_splits(admissions, work.options)
    with work.folder() as folder:
        splits.write_parquet(folder / "splits.parquet")
        write_counts(folder, {}, dropped)
