"""Discharge summaries to SECTIONS: past medical history and brief hospital course, cleaned.

In: rows of discharge.csv in file order. Out: SECTIONS. Other stages read which sections a note has (`section_marks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from flexcare_data import progress as bars
from flexcare_data.raw.notes import read_notes
from flexcare_data.raw.tables import Dropped, count, empty_counts
from flexcare_data.schema import SECTION_NAMES, SECTIONS, check
from flexcare_data.stages.note_rows import chunks, clean, texts_of, typed_rows
from flexcare_data.stages.work import StageWork, write_counts
from flexcare_data.stages.work import scratch as scratch_folder

if TYPE_CHECKING:
    from flexcare_data.options import Options

HISTORY = ("past medical history:", ("social history",))
COURSE = ("brief hospital course:", ("medications on admission",))
FALLBACK = "discharge medications"
"""Where the hospital course ends if no admission medications are listed (option `bhc_fallback`)."""

_ROWS_PER_CHUNK = 4096


def section(text: str, start: str, ends: tuple[str, ...], options: Options) -> str | None:
    """The cleaned text from the first ``start`` to the next of ``ends``, or None where missing.

    The headings are found in lower case. ``ends`` are tried in order.

    Example:
        >>> from flexcare_data.options import Options
        >>> section("Past Medical History:\\nHTN, DM-2.\\n\\nSocial History: none", *HISTORY, Options())
        'htn dm2'
    """
    lower = text.lower()
    # Lower case of some letters is longer: then positions in the two texts differ and only `lower` can be cut.
    source = text if options.note_cleaning == "keep" and len(lower) == len(text) else lower
    first = lower.find(start)
    if first < 0:
        return None
    first += len(start)
    for end in ends:
        last = lower.find(end, first)
        if last >= 0:
            return clean(source[first:last], options)
    return None


def build_sections(
    notes: Iterable[dict[str, str]],
    options: Options,
    *,
    out: Path,
    scratch: Path,
    dropped: Dropped,
) -> dict[str, int]:
    """Write SECTIONS of ``notes`` (text columns as published, in file order) to ``out``; returns counts.

    Of a repeated note_id the last row is kept. Rows without integer subject_id and hadm_id are counted in ``dropped``.
    """
    parts: list[Path] = []
    n_rows = 0
    for chunk in chunks(notes, _ROWS_PER_CHUNK):
        part = scratch / f"sections{len(parts):05d}.parquet"
        _sections_of(chunk, n_rows, options, dropped).write_parquet(part)
        parts.append(part)
        n_rows += len(chunk)
    empty = pl.DataFrame(schema={column.name: column.dtype for column in SECTIONS.columns})
    frame = pl.concat([pl.read_parquet(part) for part in parts]) if parts else empty
    unique = frame.unique("note_id", keep="last", maintain_order=True)
    count(dropped, "discharge", "", "repeated_key", frame.height - unique.height)
    check(unique.sort("note_id"), SECTIONS).write_parquet(out)
    for part in parts:
        part.unlink()
    return {
        "notes": n_rows,
        "notes used": unique.height,
        **{f"with {name.replace('_', ' ')}": unique[name].count() for name in SECTION_NAMES},
    }


def _sections_of(notes: list[dict[str, str]], first_row: int, options: Options, dropped: Dropped) -> pl.DataFrame:
    course: tuple[str, tuple[str, ...]] = (
        (COURSE[0], (*COURSE[1], FALLBACK)) if options.bhc_fallback == "on" else COURSE
    )
    texts = texts_of(notes)
    parts = {
        "past_medical_history": [section(text, *HISTORY, options) for text in texts],
        "brief_hospital_course": [section(text, *course, options) for text in texts],
    }
    ids = ("note_id", "subject_id", "hadm_id")
    return typed_rows(notes, first_row, parts, table="discharge", ids=ids, dropped=dropped).select(SECTIONS.names)


def run(work: StageWork) -> None:
    """Stage `sections`: sections.parquet; an empty one where no notes are set."""
    dropped = empty_counts()
    rows: Iterable[dict[str, str]] = ()
    if "mimic_iv_note" in work.roots:
        work.locate("discharge")
        rows = read_notes(work.roots["mimic_iv_note"], dropped, bars.meter("bytes"))
    with work.folder() as folder, scratch_folder(folder) as scratch:
        out = folder / "sections.parquet"
        counts = build_sections(rows, work.options, out=out, scratch=scratch, dropped=dropped)
        flow = [{"step": step, "notes": n} for step, n in counts.items()]
        write_counts(folder, {"discharge": flow}, dropped)


def section_marks(folder: Path) -> pl.DataFrame:
    """SECTIONS with empty texts: cohorts only need to know whether a section exists."""
    marks = [pl.when(pl.col(name).is_not_null()).then(pl.lit("")).alias(name) for name in SECTION_NAMES]
    return pl.scan_parquet(folder / "sections.parquet").with_columns(marks).collect()
