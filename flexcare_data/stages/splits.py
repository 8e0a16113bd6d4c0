"""Assign patients to train, val and test (7:1:2), once for all tasks and modalities.

In: admissions in file order. Out: SPLITS.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import polars as pl

from flexcare_data.draws import keyed_share
from flexcare_data.raw.tables import empty_counts
from flexcare_data.schema import SPLIT, SPLITS, check
from flexcare_data.stages.work import StageWork, write_counts

if TYPE_CHECKING:
    from flexcare_data.options import Options

TEST_SHARE, VAL_SHARE = 0.2, 0.1


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


def run(work: StageWork) -> None:
    """Stage `splits`: splits.parquet. What was dropped of the admissions is counted by `stays`."""
    splits = build_splits(work.read("admissions", empty_counts()), work.options)
    with work.folder() as folder:
        splits.write_parquet(folder / "splits.parquet")
        write_counts(folder, {}, {})
