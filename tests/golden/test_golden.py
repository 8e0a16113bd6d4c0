"""Every case below tests/golden: its inputs give its outputs, to the letter."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.build_and_compare import build
from support.builds import Roots
from support.paths import TESTS

from flexcare_data import schema
from flexcare_data.options import PROTOCOLS, Options
from flexcare_data.raw.notes import read_notes
from flexcare_data.raw.tables import empty_counts
from flexcare_data.stages import hourly, reports
from flexcare_data.stages import sections as notes
from flexcare_data.tasks import TASKS
from flexcare_data.tasks.base import with_last_image
from flexcare_data.variables import CATEGORIES, VARIABLES

CASES = sorted(path.parent for path in (TESTS / "golden").glob("*/*/in"))

Tables = dict[str, pl.DataFrame]


def read(path: Path, table: schema.Table | None = None) -> pl.DataFrame:
    """A csv with the dtypes of ``table``; without one, times and numbers as they look."""
    if table is None:
        return pl.read_csv(path, try_parse_dates=True)
    return pl.read_csv(path, schema_overrides={column.name: column.dtype for column in table.columns})


def run_hourly(case: Path, options: Options, scratch: Path) -> Tables:
    """Grids as a person reads them: texts of categories, one row per hour of a stay, and what was observed."""
    read(case / "events.csv", schema.EVENTS).write_parquet(scratch / "events.parquet", row_group_size=4)
    hourly.build_hourly(scratch / "events.parquet", read(case / "stays.csv"), options, out=scratch)
    index = pl.read_parquet(scratch / "index.parquet")
    rows = index.select("stay_id", hour=pl.int_ranges("n_hours")).explode("hour")
    values = np.load(scratch / "values.npy")
    columns = {
        name: [CATEGORIES[name][int(number)] for number in column] if name in CATEGORIES else column
        for name, column in zip(VARIABLES, values.T, strict=True)
    }
    observed = pl.DataFrame(np.load(scratch / "observed.npy"), schema=list(VARIABLES))
    return {
        "index": index,
        "values": rows.with_columns(**{name: pl.Series(column) for name, column in columns.items()}),
        "observed": pl.concat([rows, observed], how="horizontal"),
    }


def run_sections(case: Path, options: Options, scratch: Path) -> Tables:
    dropped = empty_counts()
    (scratch / "note").mkdir()
    (scratch / "note" / "discharge.csv").write_bytes((case / "discharge.csv").read_bytes())
    rows = read_notes(scratch, dropped)
    notes.build_sections(rows, options, out=scratch / "sections.parquet", scratch=scratch, dropped=dropped)
    return {"sections": pl.read_parquet(scratch / "sections.parquet")}


def run_reports(case: Path, options: Options, scratch: Path) -> Tables:
    """Chunks and blocks of two rows, so that the merge has several of each."""
    dropped = empty_counts()
    (scratch / "note").mkdir()
    (scratch / "note" / "radiology.csv").write_bytes((case / "radiology.csv").read_bytes())
    rows = read_notes(scratch, dropped, name="radiology")
    out = scratch / "reports.parquet"
    sizes = {"rows_per_chunk": 2, "rows_per_block": 2}
    counts = reports.build_reports(rows, options, out=out, scratch=scratch, dropped=dropped, **sizes)
    lost = [
        {"step": f"{what} {reason}".strip(), "reports": n}
        for what, reasons in sorted(dropped["radiology"].items())
        for reason, n in sorted(reasons.items())
    ]
    steps = [{"step": step, "reports": n} for step, n in counts.items()]
    return {"reports": pl.read_parquet(out), "counts": pl.DataFrame([*steps, *lost])}


def run_images(case: Path, options: Options, scratch: Path) -> Tables:
    samples = read(case / "samples.csv")
    chosen = with_last_image(samples, read(case / "radiographs.csv"))
    return {"samples": chosen.select(*samples.columns, "dicom_id", "study_id")}


def run_stories(stage: str) -> Callable[[Path, Options, Path], Tables]:
    """The stage's tables, out of a build of all stages. Of a cohort also when the questions and answers were."""

    def run(case: Path, options: Options, built: Path) -> Tables:
        folder = built / (f"cohort-{stage}" if stage in TASKS else stage)
        tables = {stage: pl.read_parquet(folder / f"{stage}.parquet")}
        if stage == "stays":
            tables["flow"] = pl.read_json(folder / "flow.json").explode("stays").unnest("stays")
            tables["admissions"] = pl.read_parquet(folder / "admissions.parquet")
        elif stage in TASKS:
            windows = pl.read_parquet(folder / "windows.parquet")
            tables["times"] = windows.select("sample_id", "prediction_time", "label_time")
        return tables

    return run


OF_STORIES = {stage: run_stories(stage) for stage in ("stays", "splits", "events", *TASKS)}
RUN = {"hourly": run_hourly, "sections": run_sections, "reports": run_reports, "images": run_images} | OF_STORIES


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Options], Path]:
    """Builds of the patients of a folder below tests/, one per set of options."""

    @cache
    def built(raw: str, options: Options) -> Path:
        folder = tmp_path_factory.mktemp("stories")
        build(Roots.below(TESTS / raw), folder, options.model_dump())
        return folder

    return built


def read_text(path: Path, default: str) -> str:
    return path.read_text().strip() if path.is_file() else default


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
def test_case(case: Path, stories: Callable[[str, Options], Path], tmp_path: Path, request: pytest.FixtureRequest):
    changes = case / "in" / "options.csv"
    chosen = dict(pl.read_csv(changes, infer_schema=False).iter_rows()) if changes.is_file() else {}
    options = Options.model_validate(PROTOCOLS["flexcare"].model_dump() | chosen)
    stage = case.parent.name
    raw = read_text(case / "in" / "raw.txt", "raw")
    folder = stories(raw, options) if stage in OF_STORIES else tmp_path
    got = {name: table.write_csv() for name, table in RUN[stage](case / "in", options, folder).items()}
    out = case / "out"
    if request.config.getoption("--rewrite-golden"):
        out.mkdir(exist_ok=True)
        for name, text in got.items():
            (out / f"{name}.csv").write_text(text)
    expected = {path.stem: path.read_text() for path in out.glob("*.csv")}
    assert got == expected
