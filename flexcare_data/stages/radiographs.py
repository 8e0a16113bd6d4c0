"""Stage `radiographs`: the AP radiographs and when they were taken.

In: the metadata table of MIMIC-CXR-JPG. Out: RADIOGRAPHS, from which cohorts choose images and the audit checks them.
"""

from __future__ import annotations

import polars as pl

from flexcare_data.raw.radiographs import is_ap
from flexcare_data.raw.tables import Dropped, count, empty_counts
from flexcare_data.schema import RADIOGRAPHS, check
from flexcare_data.stages.work import StageWork, write_counts


def build_radiographs(metadata: pl.DataFrame, dropped: Dropped) -> pl.DataFrame:
    """RADIOGRAPHS of the raw table ``metadata``, whose rows are in file order.

    Radiographs without a readable study time are kept, with a null, and counted.
    """
    radiographs = (
        metadata.with_row_index("file_order")
        .filter(is_ap())
        .with_columns(
            study_datetime=study_time(pl.col("StudyDate"), pl.col("StudyTime")),
            file_order=pl.col("file_order").cast(pl.Int64),
        )
    )
    count(dropped, "metadata", "", "unreadable_study_time", radiographs["study_datetime"].null_count())
    return check(radiographs.select(RADIOGRAPHS.names).sort("dicom_id"), RADIOGRAPHS)


def study_time(date: pl.Expr, time: pl.Expr) -> pl.Expr:
    """Datetime of StudyDate (integer 21800506) and StudyTime (float 123.002 is 00:01:23); null where it is no time.

    The fraction of a second is cut, the time padded to six digits.
    """
    clock = time.floor().cast(pl.Int64, strict=False)
    digits = date.cast(pl.String).str.zfill(8) + clock.cast(pl.String).str.zfill(6)
    parsed = digits.str.to_datetime("%Y%m%d%H%M%S", time_unit="us", strict=False)
    return pl.when(clock % 100 < 60).then(parsed)  # the parser takes second 60 for the next minute


def run(work: StageWork) -> None:
    """Stage `radiographs`: radiographs.parquet; an empty one where no radiographs are set."""
    dropped = empty_counts()
    metadata = work.read("metadata", dropped)
    radiographs = build_radiographs(metadata, dropped)
    flow = [
        {"step": "radiographs", "radiographs": metadata.height},
        {"step": "AP", "radiographs": radiographs.height},
        {"step": "with a study time", "radiographs": radiographs["study_datetime"].count()},
    ]
    with work.folder() as folder:
        radiographs.write_parquet(folder / "radiographs.parquet")
        write_counts(folder, {"radiographs": flow}, dropped)
