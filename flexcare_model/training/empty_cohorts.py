"""Cohorts without training samples: which of a run's tasks have one, and which data sets are not set.

In: an output folder. Out: names. The data sets are found in the manifests of the stages behind a cohort.
"""

from __future__ import annotations

from pathlib import Path

from flexcare_data.schema import RAW
from flexcare_data.store.folders import MANIFEST, read_manifest
from flexcare_data.store.shards import read_output_table


def is_empty(output: Path, task: str) -> bool:
    """True where the cohort of ``task`` has no training samples."""
    split = read_output_table(output / f"cohorts/{task}.parquet")["split"]
    return not (split == "train").any()


def absent_data_sets(output: Path, task: str) -> tuple[str, ...]:
    """Raw data sets without which the cohort of ``task`` was built, by their names in the configuration."""
    found, seen, todo = set(), set(), [(output / f"cohorts/{task}.parquet").resolve().parent]
    while todo:
        folder = todo.pop()
        if folder in seen or not (folder / MANIFEST).is_file():
            continue
        seen.add(folder)
        spec = read_manifest(folder)["spec"]
        found |= {RAW[table].root for table, digest in spec.get("raw", {}).items() if digest == "absent"}
        todo += [folder.parent / f"{name}-{key}" for name, key in spec.get("upstream", {}).items()]
    return tuple(sorted(found))
