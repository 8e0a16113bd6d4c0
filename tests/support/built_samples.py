"""Everything that a training reads, built from fabricated raw data by the commands of both halves, in one process."""

from __future__ import annotations

from pathlib import Path

from flexcare_data.plan import stage_row
from flexcare_model.__main__ import main as main_of_models
from support.builds import Build


def embed(built: Build, encoder: Path, tasks: tuple[str, ...], *, storage: str, max_tokens: int) -> str:
    """Run the stage `notes` of a build with reports; its name there."""
    name = f"notes-{storage}-{max_tokens}"
    cohorts = [word for task in tasks for word in ("--cohorts", str(built.folder(f"cohort-{task}")))]
    arguments = ["notes", "--reports", str(built.folder("reports")), *cohorts, "--encoder", str(encoder)]
    arguments += ["--storage", storage, "--max-tokens", str(max_tokens), "--option", "notes=radiology"]
    assert main_of_models([*arguments, "--device", "cpu", "--out", str(built.folder(name))]) == 0
    return name


def publish(built: Build, output: Path, notes: str, tasks: tuple[str, ...]) -> Path:
    """An output folder with the published names of the stages that were run; ``notes``: the stage of the notes."""
    stages = ["stays", "splits", "hourly", "sections", "reports", "images", "notes", *(f"cohort-{t}" for t in tasks)]
    for stage in stages:
        folder = built.folder(notes if stage == "notes" else stage)
        if not folder.is_dir():
            continue
        for file, link in stage_row(stage, tasks).outputs.items():
            (output / link).parent.mkdir(parents=True, exist_ok=True)
            (output / link).symlink_to(folder / file)
    return output
