"""AP radiographs of the metadata table and their study times.

In: the metadata table of MIMIC-CXR-JPG. Out: AP radiographs with their study times.
"""

from __future__ import annotations

import polars as pl

from flexcare_data.raw.radiographs import is_ap
from flexcare_data.raw.tables import Dropped, count
from flexcare_data.stages.work import StageWork


def read_radiographs(work: StageWork, dropped: Dropped) -> pl.DataFrame:
    """The AP radiographs of the raw metadata; none where no radiographs are set. Unreadable times are counted."""
    radiographs, counts = ap_radiographs(work.read("metadata", dropped))
    for reason, n in counts.items():
        count(dropped, "metadata", "", reason.replace(" ", "_"), n)
    return radiographs


def study_time(date: pl.Expr, time: pl.Expr) -> pl.Expr:
    """Datetime of StudyDate (integer 21800506) and StudyTime (float 123.002 is 00:01:23); null where it is no time.

    The fraction of a second is cut, the time padded to six digits.
    """
    clock = time.floor().cast(pl.Int64, strict=False)
    digits = date.cast(pl.String).str.zfill(8) + clock.cast(pl.String).str.zfill(6)
    parsed = digits.str.to_datetime("%Y%m%d%H%M%S", time_unit="us", strict=False)
    return pl.when(clock % 100 < 60).then(parsed)  # the parser takes second 60 for the next minute


def ap_radiographs(metadata: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The AP radiographs of the metadata table, in file order, and how many have no readable study time.

    Args:
        metadata: the raw table ``metadata``, rows in file order.

    Returns:
        dicom_id, subject_id, study_id, study_datetime (null where unreadable), file_order (row in the file, from 0);
        and {"unreadable study time": n} over these rows.
    """
    radiographs = (
        metadata.with_row_index("file_order")
        .filter(is_ap())
        .select(
            "dicom_id",
            "subject_id",
            "study_id",
            study_datetime=study_time(pl.col("StudyDate"), pl.col("StudyTime")),
            file_order=pl.col("file_order").cast(pl.Int64),
        )
    )
    return radiographs, {"unreadable study time": radiographs["study_datetime"].null_count()}
