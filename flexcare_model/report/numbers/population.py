"""Whether a build has the population of the paper, and so which published numbers may be shown beside its own.

In: `Results`. Out: `Population`, the numbers of the paper. The edition is recognised by the number of ICU stays in the
raw table, which differs between all editions of MIMIC-IV that changed the patients.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

import polars as pl

from flexcare_data.options import PROTOCOLS
from flexcare_data.package_files import package_file
from flexcare_model.report.numbers.provenance import origins
from flexcare_model.report.numbers.results import Results

PUBLISHED = package_file("flexcare_model/report/resources/published.csv")


@dataclass(frozen=True)
class Population:
    """What is shown of the paper's numbers.

    Attributes:
        headings: of the column with a published number; empty: there is no such column.
        is_comparable: whether the difference to a published number is shown.
        notes: lines below the table.
    """

    headings: tuple[str, ...]
    is_comparable: bool
    notes: tuple[str, ...] = ()

    def renamed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """``frame`` with the columns of published numbers that are shown, under names that say whose they are."""
        published = [name for name in frame.columns if name.endswith("published")]
        if not self.headings:
            return frame.drop(*published, "difference", strict=False)
        if self.is_comparable:
            return frame
        return frame.rename({name: f"{name}_of_another_population" for name in published}).drop(
            "difference", strict=False
        )


SAME = Population(("published",), is_comparable=True)
OTHER = Population(
    ("published (another population)",),
    is_comparable=False,
    notes=(
        "The published numbers are of MIMIC-IV 2.0 with all three data sets and protocol flexcare. This build has "
        "other patients or other rules, so no difference is shown.",
    ),
)
INVENTED = Population((), is_comparable=False)


def population(results: Results) -> Population:
    """`SAME` for the paper's edition, data sets and protocol, `INVENTED` for fabricated data, else `OTHER`."""
    if results.is_synthetic:
        return INVENTED
    is_paper = icu_stays(results) == paper_icu_stays() and as_published(results)
    return SAME if is_paper else OTHER


def as_published(results: Results) -> bool:
    """Whether the cohorts follow protocol flexcare and have radiographs and notes.

    As the recipe says. Without one, by the options of the stages behind the cohorts; False where there are none.
    """
    if results.as_published is not None:
        return results.as_published
    published = PROTOCOLS["flexcare"].model_dump()
    specs = [origin.spec for origin in origins(results) if any(part.startswith("cohorts/") for part in origin.parts)]
    options = [pair for spec in specs for pair in (spec.get("options") or {}).items()]
    columns = [cohort.select("dicom_id", "note_id").count().row(0) for cohort in results.cohorts.values()]
    has_all = bool(columns) and all(sum(counts) > 0 for counts in zip(*columns, strict=True))
    return bool(specs) and has_all and all(published.get(name) == value for name, value in options)


def icu_stays(results: Results) -> int | None:
    """Rows of the raw table icustays: the first step of the flow of the stage behind `data/stays.parquet`."""
    beside = (results.root / "data/stays.parquet").resolve().parent / "flow.json"
    for path in (beside, results.root / "data/flow.json"):
        if path.is_file():
            steps = json.loads(path.read_text()).get("stays") or [{}]
            return steps[0].get("stays")
    return None


@cache
def published() -> pl.DataFrame:
    """Numbers of the paper: item (table), method, experiment, task, metric, value."""
    return pl.read_csv(PUBLISHED, schema_overrides={"value": pl.Float64})


def paper_values(item: str) -> dict[tuple[str, str, str, str], float]:
    """Numbers of one table of the paper by method, experiment, task and metric."""
    rows = published().filter(pl.col("item") == item).with_columns(pl.col("method", "experiment", "task").fill_null(""))
    return {(row["method"], row["experiment"], row["task"], row["metric"]): row["value"] for row in rows.to_dicts()}


def paper_icu_stays() -> int:
    """Rows of the raw table icustays in the paper's edition."""
    return int(paper_values("edition")["", "", "", "icustays"])
