"""benchmark.duckdb: views of the published tables that stay right wherever the output folder is."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import polars as pl
import pytest
from support.builds import build
from support.paths import RAW

from flexcare_data.export.catalogue import write_catalogue
from flexcare_data.options import Options
from flexcare_data.plan import SHARED_STAGES, cohort_row
from flexcare_data.schema import cohort_stage
from flexcare_data.stages.audit.build import CHECKS
from flexcare_data.tasks import TASKS
from flexcare_data.variables import VARIABLE


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with published tables and the database, as the workflow makes it."""
    folder = tmp_path_factory.mktemp("catalogue")
    built = build(RAW, folder / "stages")
    rows = {name: row for name, row in SHARED_STAGES.items() if name != "reports"}
    rows |= {cohort_stage(task): cohort_row(task) for task in TASKS}
    for place in ("view", "output"):
        for name, row in rows.items():
            for file, link in row.outputs.items():
                target = folder / place / link
                if (built.folder(name) / file).exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(built.folder(name) / file, target)
    made = folder / "output/by_key/catalogue-0123456789ab"
    made.mkdir(parents=True)
    write_catalogue(folder / "view", tuple(TASKS), Options().model_dump(), made / "benchmark.duckdb")
    (folder / "output/benchmark.duckdb").symlink_to("by_key/catalogue-0123456789ab/benchmark.duckdb")
    return folder / "output"


def asked(database: Path, query: str) -> list[tuple]:
    with duckdb.connect(database, read_only=True) as connection:
        return connection.execute(query).fetchall()


def test_samples_are_those_of_the_cohorts(output):
    found = dict(asked(output / "benchmark.duckdb", "SELECT task, count(*) FROM samples GROUP BY task"))
    assert found == {task: pl.read_parquet(output / f"cohorts/{task}.parquet").height for task in TASKS}
    assert ("availability", "charttime") in asked(output / "benchmark.duckdb", "FROM options")


@pytest.mark.parametrize("name", ["moved", "with space", "r[1]", "s*t", "it's"])
@pytest.mark.parametrize("links", [True, False])
def test_the_folder_can_be_moved(output, tmp_path, monkeypatch, name, links):
    """Also copied with its links resolved, and where a path looks like a pattern that fits another folder."""
    other = tmp_path / name.replace("[1]", "1").replace("*", "X")
    if other.name != name:
        shutil.copytree(output, other)
        events = other / "data/events.parquet"
        pl.read_parquet(events).clear().write_parquet(events)
    shutil.copytree(output, tmp_path / name, symlinks=links)
    monkeypatch.chdir("/")
    ((n,),) = asked(tmp_path / name / "benchmark.duckdb", "SELECT count(*) FROM events")
    assert n == pl.read_parquet(output / "data/events.parquet").height > 0


def test_every_view_and_column_has_a_comment(output):
    database = output / "benchmark.duckdb"
    assert asked(database, "SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL") == []
    columns = asked(database, "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal")
    assert [row for row in columns if not row[2]] == []
    assert dict(asked(database, "FROM units")) == {name: variable.unit for name, variable in VARIABLE.items()}


def test_it_stores_no_data(output):
    assert asked(output / "benchmark.duckdb", "SELECT count(*) FROM duckdb_tables()") == [(0,)]


def test_what_a_later_target_publishes_is_found_then(output, tmp_path):
    shutil.copytree(output, tmp_path / "output", symlinks=True)
    database = tmp_path / "output/benchmark.duckdb"
    with pytest.raises(duckdb.IOException, match="No files found"):
        asked(database, "FROM image_tensors")
    columns = {"dicom_id": ["a"], "shard": ["b"], "row": [0], "problem": pl.Series([None], dtype=pl.String)}
    (tmp_path / "output/data/cxr").mkdir(parents=True)
    pl.DataFrame(columns).write_parquet(tmp_path / "output/data/cxr/index.parquet")
    assert asked(database, "FROM image_tensors") == [("a", "b", 0, None)]


@pytest.mark.parametrize("check", ["image_after_prediction", "note_of_another_patient", "label_before_prediction"])
def test_checks_run_on_it(output, check):
    with duckdb.connect(output / "benchmark.duckdb", read_only=True) as connection:
        view, query = connection.extract_statements((CHECKS / f"{check}.sql").read_text())
        connection.execute(view)
        assert connection.execute(query).fetchall() == []


def test_two_builds_have_the_same_bytes(output, tmp_path):
    """So copies of one build in two places are equal, and a format of DuckDB with a random identifier is not used."""
    shutil.copytree(output, tmp_path / "view", ignore=shutil.ignore_patterns("benchmark.duckdb", "by_key"))
    write_catalogue(tmp_path / "view", tuple(TASKS), Options().model_dump(), tmp_path / "again.duckdb")
    assert (tmp_path / "again.duckdb").read_bytes() == (output / "benchmark.duckdb").read_bytes()
