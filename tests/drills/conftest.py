"""One tiny build that all drills share: fabricated raw files, a store with every stage, an output folder, a run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import canaries
import pytest
from struck import run

from flexcare_data import synthetic
from flexcare_data.config import load_config
from flexcare_data.stages import Plan
from flexcare_data.tasks import TASKS

sys.path.append(str(Path(__file__).resolve().parents[1] / "data"))

SETTINGS = {
    "hidden_dim": 8, "layers": 1, "epochs": 2, "batch_size": 16, "max_hours": 12, "threads": 1, "device": "cpu",
    "tasks": ["in_hospital_mortality", "diagnosis"],
}  # fmt: skip
PATCHES = {"flexcare_data.images.PART_SIZE": 16, "flexcare_model.embed.PART_TOKENS": 256}
"""Several parts in a pool as small as ours."""


@dataclass(frozen=True)
class Base:
    """Where the undisturbed build lies."""

    folder: Path
    said: list[str] = field(default_factory=list)
    """What its commands printed."""

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def command(self, stage: str, out: Path, raw: Path | None = None) -> list[str]:
        """The command of ``stage`` that writes to ``out`` what it makes of this build (and of ``raw``)."""
        raw, (name, _, task) = raw or self.raw, stage.partition("-")
        roots = {
            root: [f"--{root.replace('_', '-')}", raw / root] for root in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")
        }
        reads = {name: [f"--{name}", self.store / name] for name in ("stays", "splits", "events", "hourly", "sections")}
        every = [part for parts in reads.values() for part in parts]
        cohorts = ["--cohorts", *(self.store / f"cohort-{task}" for task in TASKS)]
        encoder = ["--encoder", "tiny", "--max-tokens", "16", "--threads", "1"]
        parts = {
            "stays": ["flexcare_data", "stays", *roots["mimiciv"]],
            "splits": ["flexcare_data", "splits", *roots["mimiciv"]],
            "events": ["flexcare_data", "events", *roots["mimiciv"], *reads["stays"], "--threads", "2"],
            "hourly": ["flexcare_data", "hourly", *reads["stays"], *reads["splits"], *reads["events"]],
            "sections": ["flexcare_data", "sections", *roots["mimic_iv_note"]],
            "cohort": ["flexcare_data", "cohort", "--task", task, *roots["mimiciv"], *roots["mimic_cxr_jpg"],
                       *every],
            "audit": ["flexcare_data", "audit", *roots["mimiciv"], *roots["mimic_cxr_jpg"], *every,
                      *cohorts],
            "cxr": ["flexcare_data", "images", *roots["mimic_cxr_jpg"], *cohorts, "--broken-share", "1"],
            "notes": ["flexcare_model", "embed", *cohorts, *reads["sections"], *encoder],
            "train": ["flexcare_model", "train", "--output", self.output, "--model", "flexcare", "--settings",
                      json.dumps(SETTINGS), "--seed", "40"],
        }  # fmt: skip
        return [*map(str, parts[name]), "--out", str(out)]


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Base:
    """The undisturbed build; its store and output are read, never written, by the drills."""
    from builds import build

    base = Base(tmp_path_factory.mktemp("base"))
    synthetic.write(base.raw, patients=40, seed=3, edition="2.2")
    canaries.plant(base.raw)
    build(base.raw, base.store)
    for stage in ("cxr", "notes"):
        done = run(base.command(stage, base.store / stage), watched=base.store, patches=PATCHES)
        assert done.status == 0, done.said
        base.said.append(done.said)
    for name, stage in Plan(load_config({})).stages.items():
        for file, link in stage.outputs.items():
            place = base.output / link
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(base.store / name / file)
    done = run(base.command("train", base.output / "runs/flexcare/six_tasks/seed40"), watched=base.output)
    assert done.status == 0, done.said
    base.said.append(done.said)
    return base
