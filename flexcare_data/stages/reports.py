"""Stage `reports`: radiology reports to REPORTS, the cleaned findings and impression of each. Only `notes: radiology`.

In: rows of radiology.csv in file order. Out: reports.parquet. The table has millions of rows: chunks of it are sorted
and written to disk, then merged, so that memory does not grow with it. Other stages read which reports have a text
(`report_marks`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from flexcare_data import note_ids
from flexcare_data import progress as bars
from flexcare_data.raw.notes import read_notes
from flexcare_data.raw.tables import Dropped, count, empty_counts
from flexcare_data.schema import REPORTS, check
from flexcare_data.stages.note_rows import chunks, clean, texts_of, typed_rows
from flexcare_data.stages.work import StageWork, write_counts
from flexcare_data.stages.work import scratch as scratch_folder

if TYPE_CHECKING:
    from flexcare_data.options import Options

USED = (
    "FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "FINDINGS", "FINDING", "IMPRESSION AND RECOMMENDATIONS",
    "IMPRESSION AND RECOMMENDATION", "IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS",
)  # fmt: skip
"""Headings of the parts that are read."""
OTHERS = (
    "EXAMINATION", "EXAMINATIONS", "EXAM", "STUDY", "INDICATION", "INDICATIONS", "HISTORY", "CLINICAL HISTORY",
    "CLINICAL INFORMATION", "CLINICAL INDICATION", "REASON FOR EXAM", "REASON FOR EXAMINATION", "REASON FOR STUDY",
    "TECHNIQUE", "COMPARISON", "COMPARISONS", "COMPARISON EXAM", "CONTRAST", "DOSE", "DLP", "PROCEDURE", "PROCEDURES",
    "PROCEDURE DETAILS", "OPERATORS", "ANESTHESIA", "MEDICATIONS", "FLUOROSCOPY TIME AND DOSE", "RECOMMENDATION",
    "RECOMMENDATIONS", "RECOMMENDATION(S)", "NOTIFICATION", "NOTIFICATIONS", "NOTIFICATION(S)", "ADDENDUM", "WET READ",
)  # fmt: skip
"""Headings at which such a part ends. Others, such as `LUNGS` and `BONES`, are within the findings."""

_BY_LENGTH = "|".join(re.escape(name) for name in sorted((*USED, *OTHERS), key=len, reverse=True))
# A heading begins a line in any case, or is in capitals anywhere.
_HEADING = re.compile(rf"(?:^[ \t]*(?i:({_BY_LENGTH}))|(?<!\S)({_BY_LENGTH}))[ \t]*:", re.MULTILINE)
_ROWS_PER_CHUNK = 1 << 14
_ROWS_PER_GROUP = 1 << 11
"""Rows of a group of a sorted chunk: the least that the merge reads of it."""
_ROWS_PER_BLOCK = 1 << 15
"""Rows that the merge holds in memory, and rows of a group of the result."""


def report_text(text: str, options: Options) -> str | None:
    """Findings and impression of a report, without headings, cleaned and joined by a space; None where it has none.

    Every part with one of the headings `USED` is taken, in the order of the report, up to the next known heading.

    Example:
        >>> from flexcare_data.options import Options
        >>> report_text("INDICATION: ___\\nFINDINGS: Lungs: clear.\\nIMPRESSION:\\nNormal.\\nEXAM: no", Options())
        'lungs clear normal'
    """
    headings = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in headings), len(text)][1:]
    parts = [
        clean(part if options.note_cleaning == "keep" else part.lower(), options)
        for heading, end in zip(headings, ends, strict=True)
        if (heading[1] or heading[2]).upper() in USED and (part := text[heading.end() : end])
    ]
    return " ".join(filter(None, parts)) or None


def build_reports(
    notes: Iterable[dict[str, str]],
    options: Options,
    *,
    out: Path,
    scratch: Path,
    dropped: Dropped,
    rows_per_chunk: int = _ROWS_PER_CHUNK,
    rows_per_block: int = _ROWS_PER_BLOCK,
) -> dict[str, int]:
    """Write REPORTS of ``notes`` (text columns as published, in file order) to ``out``; returns counts.

    Of a repeated note_id the last row is kept. Rows without note_id or integer subject_id are counted in ``dropped``,
    as are ids with a space, which cannot be joined.
    """
    parts: list[Path] = []
    n_rows = 0
    for chunk in chunks(notes, rows_per_chunk):
        part = scratch / f"reports{len(parts):05d}.parquet"
        frame = _reports_of(chunk, n_rows, options, dropped).sort("note_id", "file_order")
        frame.write_parquet(part, row_group_size=_ROWS_PER_GROUP)
        parts.append(part)
        n_rows += len(chunk)
    counts = {"reports": n_rows, "reports used": 0, "with findings or impression": 0}
    repeated = 0
    with pq.ParquetWriter(out, _arrow(_empty()).schema, compression="zstd", use_dictionary=False) as writer:
        for block, lost in _merged(parts, rows_per_block):
            repeated += lost
            counts["reports used"] += block.height
            counts["with findings or impression"] += block["text"].count()
            without = block.filter(pl.col("storetime").is_null() & pl.col("charttime").is_null())
            count(dropped, "radiology", "storetime", "missing_with_charttime", without.height)
            writer.write_table(_arrow(check(block, REPORTS)), row_group_size=rows_per_block)
    count(dropped, "radiology", "", "repeated_key", repeated)
    for part in parts:
        part.unlink()
    return counts


def _reports_of(notes: list[dict[str, str]], first_row: int, options: Options, dropped: Dropped) -> pl.DataFrame:
    texts = {"text": [report_text(text, options) for text in texts_of(notes)]}
    ids = ("note_id", "subject_id")
    frame = typed_rows(notes, first_row, texts, table="radiology", ids=ids, dropped=dropped).select(REPORTS.names)
    usable = frame.filter(~pl.col("note_id").str.contains(note_ids.SEPARATOR, literal=True))
    count(dropped, "radiology", "", "note_id_with_a_space", frame.height - usable.height)
    return usable


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema={column.name: column.dtype for column in REPORTS.columns})


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _merged(parts: list[Path], rows_per_block: int) -> Iterator[tuple[pl.DataFrame, int]]:
    """Blocks of the rows of all ``parts``, in order of note_id over all blocks, with the repeated ids left out of each.

    A part is sorted, so a block has consecutive rows of it.
    """
    if not parts:
        return
    keys = pl.concat(
        pl.read_parquet(part, columns=["note_id", "file_order"]).with_columns(part=pl.lit(k, pl.Int32))
        for k, part in enumerate(parts)
    )
    ordered = keys.sort("note_id", "file_order").select("part", last=pl.col("note_id").is_last_distinct())
    del keys  # only the place of each row is needed from here on
    start = np.zeros(len(parts), np.int64)
    for block in ordered.iter_slices(rows_per_block):
        n = np.bincount(block["part"].to_numpy(), minlength=len(parts))
        rows = pl.concat(pl.scan_parquet(parts[k]).slice(int(start[k]), int(n[k])).collect() for k in np.flatnonzero(n))
        start += n
        rows = rows.sort("note_id", "file_order").filter(block["last"])
        yield rows, block.height - rows.height


def run(work: StageWork) -> None:
    """Stage `reports`: reports.parquet; an empty one where no notes are set."""
    dropped = empty_counts()
    rows: Iterable[dict[str, str]] = ()
    if "mimic_iv_note" in work.roots:
        work.locate("radiology")
        rows = read_notes(work.roots["mimic_iv_note"], dropped, bars.meter("bytes"), name="radiology")
    with work.folder() as folder, scratch_folder(folder) as scratch:
        out = folder / "reports.parquet"
        counts = build_reports(rows, work.options, out=out, scratch=scratch, dropped=dropped)
        flow = [{"step": step, "notes": n} for step, n in counts.items()]
        write_counts(folder, {"radiology": flow}, dropped)


def report_marks(folder: Path) -> pl.DataFrame:
    """REPORTS that have a text, without it: cohorts only need to know that it exists."""
    reports = pl.scan_parquet(folder / "reports.parquet").filter(pl.col("text").is_not_null())
    return reports.select(name for name in REPORTS.names if name != "text").collect()
