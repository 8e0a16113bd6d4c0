"""The tiny build that all fault tests share, and the command of each of its stages."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from flexcare_data.hashing import spec_key
from flexcare_data.store.recipe import Recipe
from flexcare_data.tasks import TASKS

SETTINGS = {
    "hidden_dim": 8, "layers": 1, "epochs": 2, "batch_size": 16, "max_hours": 12, "threads": 1, "device": "cpu",
    "tasks": ["in_hospital_mortality", "diagnosis"],
}  # fmt: skip
PATCHES = {"flexcare_data.stages.images.build.PART_SIZE": 16, "flexcare_model.notes.build.PART_TOKENS": 256}
"""Several parts in a pool as small as ours."""

SHARED = ("stays", "splits", "events", "hourly", "sections", "radiographs")


@dataclass(frozen=True)
class Base:
    """Folders of the build without faults."""

    folder: Path
    printed: list[str] = field(default_factory=list)
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

    @property
    def encoder(self) -> Path:
        """The note encoder, by a name outside the store, as a user would give one."""
        return self.folder / "encoder"

    def recipe(self, path: Path, name: str, output: Path | None = None, **settings) -> Path:
        """Write to ``path`` what the workflow would hand to a command that reports on this output folder."""
        settings = {"suppress_below": 10, "seeds": [40], "synthetic": True} | settings
        output = output or self.output
        links = {
            link.relative_to(output).as_posix(): str(link)
            for link in sorted(output.rglob("*"))
            if link.is_symlink() or link.is_file()
        }
        Recipe(name, {"product": name, "settings": settings}, links).write(path)
        return path

    def command(self, stage: str, out: Path, raw: Path | None = None) -> list[str]:
        """The command of ``stage`` that writes to ``out`` what it makes of this build (and of ``raw``)."""
        raw, (name, _, task) = raw or self.raw, stage.partition("-")
        roots = {
            root: [f"--{root.replace('_', '-')}", raw / root] for root in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")
        }
        reads = {name: [f"--{name}", self.store / name] for name in SHARED}
        every = [part for parts in reads.values() for part in parts]
        cohorts = [word for task in TASKS for word in ("--cohorts", self.store / f"cohort-{task}")]
        encoder = ["--encoder", self.encoder, "--max-tokens", "16", "--threads", "1"]
        parts = {
            "stays": ["flexcare_data", "stays", *roots["mimiciv"]],
            "splits": ["flexcare_data", "splits", *roots["mimiciv"]],
            "events": ["flexcare_data", "events", *roots["mimiciv"], *reads["stays"], "--threads", "2"],
            "hourly": ["flexcare_data", "hourly", *reads["stays"], *reads["splits"], *reads["events"]],
            "sections": ["flexcare_data", "sections", *roots["mimic_iv_note"]],
            "cohort": ["flexcare_data", "cohort", "--task", task, *roots["mimiciv"], *roots["mimic_cxr_jpg"],
                       *every],
            "radiographs": ["flexcare_data", "radiographs", *roots["mimic_cxr_jpg"]],
            "audit": ["flexcare_data", "audit", *every, *cohorts],
            "images": ["flexcare_data", "images", *roots["mimic_cxr_jpg"], *cohorts, "--broken-share", "1"],
            "encoder": ["flexcare_model", "encoder", "--encoder", "tiny", *reads["sections"]],
            "notes": ["flexcare_model", "notes", *cohorts, *reads["sections"], *encoder],
            "train": ["flexcare_model", "train", "--output", self.output, "--model", "flexcare", "--settings",
                      json.dumps(SETTINGS), "--seed", "40"],
        }  # fmt: skip
        return [*map(str, parts[name]), "--out", str(out)]


def key_of(recipe: Path) -> str:
    """The key of the product that ``recipe`` is for."""
    return spec_key(json.loads(recipe.read_text())["spec"])
