"""Dataset card in Markdown, and the build described as Croissant JSON-LD.

In: `Results`, facts about the build (`About`). Out: text and a dict. Neither contains rows, only names, types, and
counts that may be published.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from flexcare_data.schema import COHORT
from flexcare_data.tasks import TASKS
from flexcare_model.report.about import About
from flexcare_model.report.numbers import facts, provenance, tables
from flexcare_model.report.numbers.layout import Layout
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.pages.elements import TEMPLATES

LICENCE = "https://physionet.org/content/mimiciv/view-license/2.2/"
HOME = "https://github.com/mhxu1998/FlexCare"
PAPER = (
    "FlexCare: Leveraging Cross-Task Synergy for Flexible Multimodal Healthcare Prediction. KDD 2024, arXiv:2406.11928"
)
_TYPES: dict[type[pl.DataType], str] = {pl.Int64: "sc:Integer", pl.Int8: "sc:Integer", pl.Float64: "sc:Float"}


def dataset_card(results: Results, about: About) -> str:
    """The dataset card, with the cohort sizes and modalities of this build."""
    sizes = facts.cohort_sizes(results, below=about.below)
    build = [
        ("Code", about.code_version or "unknown"),
        ("Cohorts", ", ".join(results.cohorts) or "none"),
        *((f"Stage {name}", key) for name, key in _keys(results)),
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("card.md.j2").render(
        synthetic=about.synthetic(results.is_synthetic),
        protocol=about.config.get("protocol", "flexcare"),
        cohorts=_under_heading(sizes) if sizes else "No cohort has been built yet.",
        modalities=_under_heading(*tables.table2(results, below=about.below)) if results.cohorts else "",
        below=about.below,
        build=build,
    )
    return text.rstrip() + "\n"


def _under_heading(layout: Layout) -> str:
    return "##" + layout.to_markdown().removeprefix("#").rstrip()


def _keys(results: Results) -> list[tuple[str, str]]:
    parts = (origin.stage.rpartition("-") for origin in provenance.origins(results))
    return [(name, key) for name, _, key in parts]


def croissant(results: Results, about: About) -> dict[str, Any]:
    """The published cohorts and stays as a Croissant 1.0 description: files with digests, columns with types."""
    synthetic = about.synthetic(results.is_synthetic)
    files, records = [], []
    for name, cohort in results.cohorts.items():
        path = results.root / "cohorts" / f"{name}.parquet"
        files.append(_file(path, f"cohorts/{name}.parquet", f"cohort-{name}", TASKS[name].description))
        records.append(_record_set(name, cohort, TASKS[name].description))
    mark = " SYNTHETIC DATA: fabricated patients." if synthetic else ""
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": "FlexCare-benchmark-synthetic" if synthetic else "FlexCare-benchmark",
        "description": "Seven clinical prediction tasks over ICU time series, chest radiographs and discharge "
        "summaries, derived from MIMIC-IV, MIMIC-CXR-JPG and MIMIC-IV-Note. Access to the sources needs credentials of "
        "PhysioNet; derived files stay under the same terms." + mark,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": LICENCE,
        "url": HOME,
        "version": about.code_version or "0.0.0",
        # Croissant requires a date. Builds have no date by design, so it is that of the paper's edition of MIMIC-IV.
        "datePublished": "2022-06-12",
        "citeAs": PAPER,
        "isLiveDataset": False,
        "distribution": files,
        "recordSet": records,
    }


def _file(path: Path, relative: str, identifier: str, description: str) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "@type": "cr:FileObject",
        "@id": identifier,
        "name": identifier,
        "description": description,
        "contentUrl": relative,
        "contentSize": f"{len(content)} B",
        "encodingFormat": "application/x-parquet",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _record_set(name: str, cohort: pl.DataFrame, description: str) -> dict[str, Any]:
    meanings = {column.name: column.meaning for column in COHORT.columns}
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{_identifier(column)}",
            "name": f"{name}/{_identifier(column)}",
            "description": meanings.get(column, f"{column}: label of the task {name}"),
            "dataType": _TYPES.get(dtype.base_type(), "sc:Text"),
            "source": {"fileObject": {"@id": f"cohort-{name}"}, "extract": {"column": column}},
        }
        for column, dtype in cohort.schema.items()
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "key": {"@id": f"{name}/sample_id"},
        "field": fields,
    }


def _identifier(column: str) -> str:
    """``column`` without characters that a Croissant identifier may not contain."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", column).strip("-")


_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "equivalentProperty": "cr:equivalentProperty",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that Croissant 1.0 prescribes."""
