"""Which texts can be note inputs: sections of discharge summaries, or radiology reports.

In: the folders of the stages `sections` or `reports`. Out: note_id and a column for each kind of text.
"""

from __future__ import annotations

import polars as pl

from flexcare_data.schema import REPORT, SECTION_NAMES
from flexcare_data.stages.work import StageWork


def reads_reports(work: StageWork) -> bool:
    """True where the notes are radiology reports (option `notes: radiology`)."""
    return "reports" in work.upstream


def texts_of(work: StageWork) -> pl.LazyFrame:
    """The texts of the notes, by note_id; radiology reports where their stage is read."""
    if reads_reports(work):
        reports = pl.scan_parquet(work.upstream["reports"] / "reports.parquet")
        return reports.select("note_id", pl.col("text").alias(REPORT))
    return pl.scan_parquet(work.upstream["sections"] / "sections.parquet").select("note_id", *SECTION_NAMES)
