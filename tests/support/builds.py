"""The data half from the raw tables to the audit, by the commands that the workflow runs, in one process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flexcare_data.__main__ import main
from flexcare_data.tasks import TASKS


@dataclass(frozen=True)
class Roots:
    """Folders of the raw data sets; None where a modality is missing."""

    mimiciv: Path
    mimic_cxr_jpg: Path | None = None
    mimic_iv_note: Path | None = None

    @classmethod
    def below(cls, folder: Path) -> Roots:
        """Those that exist in ``folder``."""
        cxr, note = (folder / name for name in ("mimic_cxr_jpg", "mimic_iv_note"))
        return cls(folder / "mimiciv", cxr if cxr.exists() else None, note if note.exists() else None)


@dataclass(frozen=True)
class Build:
    """Folders of the stages of one build."""

    out: Path

    def folder(self, stage: str) -> Path:
        return self.out / stage

    def table(self, stage: str, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.out / stage / name)

    def cohort(self, task: str) -> pl.DataFrame:
        return self.table(f"cohort-{task}", f"{task}.parquet")

    def counts(self, stage: str, name: str) -> dict[str, Any]:
        return json.loads((self.out / stage / f"{name}.json").read_text())


def build(
    raw: Path | Roots,
    out: Path,
    *,
    tasks: tuple[str, ...] = tuple(TASKS),
    options: Mapping[str, str] | None = None,
    with_audit: bool = True,
    n_reports: int = 3,
) -> Build:
    """Run every stage; ``out`` gets one folder per stage.

    Args:
        raw: the raw data sets, or the folder that contains them.
        options: options of the protocol that differ from `flexcare`.
        n_reports: setting `notes.reports`, used with `notes: radiology`.

    Raises:
        AssertionError: a stage ended with a known error (its message is on standard error).
    """
    built = Build(out)
    given = raw if isinstance(raw, Roots) else Roots.below(raw)
    roots = {name: folder for name, folder in asdict(given).items() if folder is not None}

    def run(
        command: str, *, read: tuple[str, ...] = (), upstream: tuple[str, ...] = (), stage: str = "", more=()
    ) -> None:
        arguments = [command, *more]
        for name in read:
            if name in roots:
                arguments += [f"--{name.replace('_', '-')}", str(roots[name])]
        for name in upstream:
            arguments += [f"--{name}", str(out / name)]
        for name, value in (options or {}).items():
            arguments += ["--option", f"{name}={value}"]
        status = main([*arguments, "--out", str(out / (stage or command))])
        assert status == 0, f"{command}: exit status {status}"

    run("stays", read=("mimiciv",))
    run("splits", read=("mimiciv",))
    run("events", read=("mimiciv",), upstream=("stays",))
    run("hourly", upstream=("stays", "splits", "events"))
    run("sections", read=("mimic_iv_note",))
    run("radiographs", read=("mimic_cxr_jpg",))
    inputs = ("stays", "splits", "hourly", "sections", "radiographs", "events")
    count = ("--n-reports", str(n_reports))
    if (options or {}).get("notes") == "radiology":
        run("reports", read=("mimic_iv_note",))
        inputs = (*inputs, "reports")
    for task in tasks:
        more = ("--task", task, *count)
        run("cohort", read=("mimiciv", "mimic_cxr_jpg"), upstream=inputs, stage=f"cohort-{task}", more=more)
    if not (with_audit and tasks):
        return built
    cohorts = [*count, *(word for task in tasks for word in ("--cohorts", str(out / f"cohort-{task}")))]
    run("audit", upstream=inputs, more=cohorts)
    return built
