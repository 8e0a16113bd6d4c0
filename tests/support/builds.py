"""The data half from the raw tables to the audit, by the commands that the workflow runs, in one process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flexcare_data.__main__ import main
from flexcare_data.tasks import TASKS


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


def build(raw: Path, out: Path, *, tasks: tuple[str, ...] = tuple(TASKS), options: tuple[str, ...] = ()) -> Build:
    """Run every stage over the three roots below ``raw`` (those that are there).

    Raises:
        AssertionError: a stage ended with a known error (its message is on standard error).
    """
    built = Build(out)
    roots = {name: raw / name for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note") if (raw / name).exists()}

    def run(
        command: str, *, read: tuple[str, ...] = (), upstream: tuple[str, ...] = (), stage: str = "", more=()
    ) -> None:
        arguments = [command, *more]
        for name in read:
            if name in roots:
                arguments += [f"--{name.replace('_', '-')}", str(roots[name])]
        for name in upstream:
            arguments += [f"--{name}", str(out / name)]
        for option in options:
            arguments += ["--option", option]
        status = main([*arguments, "--out", str(out / (stage or command))])
        assert status == 0, f"{command}: exit status {status}"

    run("stays", read=("mimiciv",))
    run("splits", read=("mimiciv",))
    run("events", read=("mimiciv",), upstream=("stays",))
    run("hourly", upstream=("stays", "splits", "events"))
    run("sections", read=("mimic_iv_note",))
    inputs = ("stays", "splits", "hourly", "sections", "events")
    for task in tasks:
        run("cohort", read=("mimiciv", "mimic_cxr_jpg"), upstream=inputs, stage=f"cohort-{task}", more=("--task", task))
    cohorts = [*(word for task in tasks for word in ("--cohorts", str(out / f"cohort-{task}")))]
    run("audit", read=("mimiciv", "mimic_cxr_jpg"), upstream=inputs, more=cohorts)
    return built
