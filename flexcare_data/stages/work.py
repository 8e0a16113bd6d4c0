"""Inputs, options and output folder of a stage: `StageWork`, the argument of every ``run(work)`` of `stages/`.

A stage can read only what its row in `flexcare_data.plan` declares. Another option or raw table is an error, because
the key of the stage would not change with it. The code and the raw tables are compared with the spec when the
stage starts and again before its folder is sealed, so that nothing is stored under a wrong key. `images` also compares
the radiographs, `notes` the note encoder.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from flexcare_data.code_digest import changed_code
from flexcare_data.errors import UserError
from flexcare_data.hashing import remembered_digest
from flexcare_data.raw import files
from flexcare_data.raw.tables import Dropped, read_table
from flexcare_data.schema import RAW, task_of_stage
from flexcare_data.store.folders import write_stage

if TYPE_CHECKING:
    from flexcare_data.options import Options


class UndeclaredError(UserError, RuntimeError):
    """A stage reads what its row in `flexcare_data.plan` does not declare: a mistake in the code."""


class ChangedError(UserError):
    """Code, raw files or the note encoder have changed since the build was planned."""


AGAIN = "nothing was stored. Give the same command again"
"""How a message about a change ends."""


class DeclaredOptions:
    """The options of the protocol that a stage declares; any other one is an `UndeclaredError`."""

    def __init__(self, options: Options, declared: Iterable[str]) -> None:
        self._options, self._declared = options, frozenset(declared)

    def __getattr__(self, name: str) -> Any:
        if name not in self._declared:
            raise UndeclaredError(
                f"option {name}: expected one of {sorted(self._declared)}, which this stage declares. Add it to "
                "`options` of the task's TASK, or of the stage's row in flexcare_data/plan.py"
            )
        return getattr(self._options, name)


@dataclass(frozen=True)
class StageWork:
    """One run of a stage.

    Attributes:
        name: of the stage.
        out: the folder that the stage becomes.
        options: the declared options of the protocol.
        declared_raw: raw tables that the stage may read.
        roots: folders of the raw data sets that are set.
        upstream: folders of the stages that it reads, by name; cohorts by ``cohort-<task>``.
        settings: further settings, by name.
        spec: what decides the content, for the manifest; empty where the stage is run by hand without a plan.
        threads: threads.
        group_readable: whether the group may read the folder.
    """

    name: str
    out: Path
    options: Any
    declared_raw: tuple[str, ...] = ()
    roots: Mapping[str, Path] = field(default_factory=dict)
    upstream: Mapping[str, Path] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    group_readable: bool = True

    def locate(self, table: str) -> Path:
        """The file of a raw table.

        Raises:
            RawDataError: where it is missing.
            UndeclaredError: where the stage does not declare it.
        """
        if table not in self.declared_raw:
            raise UndeclaredError(
                f"raw table {table}: expected one of {sorted(self.declared_raw)}, which stage {self.name} declares. "
                "Add it to `raw` of the task's TASK, or of the stage's row in flexcare_data/plan.py"
            )
        root = self.roots.get(RAW[table].root)
        if root is None:
            raise files.RawDataError(f"{table}: expected the folder raw.{RAW[table].root}, got none")
        return files.locate(root, table)

    def read(self, table: str, dropped: Dropped) -> pl.DataFrame:
        """A small raw table; an empty one where its data set is not set. Unusable rows are counted in ``dropped``."""
        if table in self.declared_raw and RAW[table].root not in self.roots:
            return pl.DataFrame(schema=RAW[table].columns)
        self.locate(table)
        return read_table(self.roots[RAW[table].root], table, dropped)

    def table(self, stage: str, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        """Table ``name`` of an upstream stage."""
        return pl.read_parquet(self.upstream[stage] / f"{name}.parquet", columns=columns)

    def cohorts(self) -> dict[str, Path]:
        """Folders of the cohorts among ``upstream``, by task."""
        return {task: path for name, path in self.upstream.items() if (task := task_of_stage(name))}

    def check_unchanged(self) -> None:
        """Raise ChangedError unless code and raw tables are those of the spec."""
        if changed := changed_code(self.spec.get("code")):
            raise ChangedError(f"{self.name}: the code has changed since this build was planned ({changed}); {AGAIN}")
        for table, planned in self.spec.get("raw", {}).items():
            if planned == "absent" or table not in self.declared_raw or "synthetic" in self.spec.get("upstream", {}):
                continue
            path = self.locate(table)
            if remembered_digest(path)[: len(planned)] != planned:
                raise ChangedError(f"{path}: has changed since this build was planned; {AGAIN}")

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """The folder to fill; on a clean exit it becomes ``out``, sealed with its manifest."""
        with write_stage(
            self.out, spec=dict(self.spec), group_readable=self.group_readable, verify=self.check_unchanged
        ) as folder:
            yield folder


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder for intermediate files inside ``folder``; removed before the stage is sealed."""
    with tempfile.TemporaryDirectory(dir=folder) as path:
        yield Path(path)


def merged_counts(parts: Iterable[Dropped], of_one_table: Any = sum) -> Dropped:
    """Counts of several stages together. A table that several stages read is counted once (``of_one_table=max``)."""
    merged: Dropped = {}
    for part in parts:
        for table, by_column in part.items():
            for column, reasons in by_column.items():
                into = merged.setdefault(table, {}).setdefault(column, {})
                for reason, n in reasons.items():
                    into[reason] = of_one_table([into.get(reason, 0), n])
    return merged


def write_counts(folder: Path, flow: Mapping[str, Any], dropped: Dropped) -> None:
    """flow.json and dropped.json of a stage."""
    write_json(folder / "flow.json", flow)
    write_json(folder / "dropped.json", dropped, sort_keys=True)


def write_json(path: Path, content: Any, *, sort_keys: bool = False) -> None:
    """JSON with one value per line."""
    path.write_text(json.dumps(content, indent=1, sort_keys=sort_keys) + "\n")
