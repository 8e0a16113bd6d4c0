"""Which texts can be note inputs: sections of discharge summaries, or radiology reports.

In: the folders of the stages that a stage reads. Out: note_id and a column for each kind of text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from flexcare_data.schema import REPORT, SECTION_NAMES


def reads_reports(upstream: Mapping[str, Path]) -> bool:
    """True where the notes are radiology reports (option `notes: radiology`)."""
    return "reports" in upstream


def texts_of(upstream: Mapping[str, Path]) -> pl.LazyFrame:
    """The texts of the notes, by note_id; radiology reports where their stage is read."""
    if reads_reports(upstream):
        reports = pl.scan_parquet(upstream["reports"] / "reports.parquet")
        return reports.select("note_id", pl.col("text").alias(REPORT))
    return pl.scan_parquet(upstream["sections"] / "sections.parquet").select("note_id", *SECTION_NAMES)
