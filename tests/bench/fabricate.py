"""Fabricate big event tables for the benchmarks.

    python tests/bench/fabricate.py --rows 20000000 --stays 10000 --out DIR [--double]

In: how many chartevents rows over how many ICU stays. Out: `DIR/mimiciv` in the layout of edition 2.2 with chartevents,
labevents (a fifth of that number of rows) and the small tables that the hourly store needs, marked as synthetic. They
have the shape of the published tables: 28 % of the charted rows are of used items, 94 bytes a row, and gzip level 6
makes them 11 times smaller. ``--double`` charts every stay once more with other draws: as many rows again over the same
stays. The outputs are large: keep them out of the repository.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import polars as pl

from flexcare_data.schema import SYNTHETIC_MARK
from flexcare_data.synthetic import chart, codes, labs
from flexcare_data.synthetic.layout import MARK_TEXT, tables
from flexcare_data.synthetic.population import Population, populate
from flexcare_data.synthetic.write import chunks_of, lab_chunks, write_table

STAYS_PER_PATIENT = 1.6
"""Below the generator's mean (1.8), so that enough stays come out."""
LAB_SHARE = 0.2


def fabricate(out: Path, *, rows: int, stays: int, seed: int, double: bool) -> dict[str, int]:
    """Write the tables and return their numbers of rows."""
    layouts = tables("2.2")
    people = _people(stays, seed)
    passes = [seed, seed + 1] if double else [seed]
    step_hours = _density(lambda step: chart.chartevents(people, 0, 300, seed=seed, step_hours=step).height,
                          rows * min(300, stays) / stays, chart.STEP_HOURS)  # fmt: skip
    n = people.admissions.height
    panel_hours = _density(lambda step: labs.labevents(people, 0, 300, seed=seed, panel_hours=step).height,
                           LAB_SHARE * rows * min(300, n) / n, labs.PANEL_HOURS)  # fmt: skip
    (out / "mimiciv").mkdir(parents=True, exist_ok=True)
    (out / "mimiciv" / SYNTHETIC_MARK).write_text(MARK_TEXT)
    small = {
        "patients": people.patients, "admissions": people.admissions, "icustays": people.stays,
        "diagnoses_icd": codes.diagnoses_icd(people, seed=seed), "d_icd_diagnoses": codes.d_icd_diagnoses(),
    }  # fmt: skip
    written = {name: write_table(out, layouts[name], [frame]) for name, frame in small.items()}
    written["chartevents"] = write_table(
        out, layouts["chartevents"], _chart(people, passes, step_hours), open_gzip=_gzip
    )
    written["labevents"] = write_table(out, layouts["labevents"], _labs(people, passes, panel_hours), open_gzip=_gzip)
    return written


def _people(stays: int, seed: int) -> Population:
    people = populate(int(stays / STAYS_PER_PATIENT) + 10, seed)
    kept = people.stays[:stays]
    last = int(kept["admission"].max()) + 1
    return Population(people.patients, people.admissions[:last], kept)


def _density(count, wanted: float, step: float) -> float:
    """The step (hours) at which ``count(step)`` gives ``wanted`` rows; rows go about as one over the step."""
    for _ in range(3):
        step *= count(step) / wanted
    return step


def _chart(people: Population, passes: list[int], step_hours: float) -> Iterator[pl.DataFrame]:
    for seed in passes:
        for start, stop in chunks_of(people.stays.height):
            yield chart.chartevents(people, start, stop, seed=seed, step_hours=step_hours)


def _labs(people: Population, passes: list[int], panel_hours: float) -> Iterator[pl.DataFrame]:
    for seed in passes:
        yield from lab_chunks(people, chunks_of(people.admissions.height), seed=seed, panel_hours=panel_hours)


def _gzip(raw: BinaryIO) -> BinaryIO:
    return gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000, help="rows of chartevents (about)")
    parser.add_argument("--stays", type=int, default=10_000, help="ICU stays")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets mimiciv/")
    parser.add_argument("--double", action="store_true", help="as many rows again over the same stays")
    args = parser.parse_args()
    begin = time.perf_counter()
    written = fabricate(args.out, rows=args.rows, stays=args.stays, seed=args.seed, double=args.double)
    for name, rows in written.items():
        print(f"{name:16} {rows:>12,} rows")
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
