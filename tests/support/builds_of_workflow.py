"""Builds by Snakemake as a user starts them, and what their output says."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from support.paths import ROOT

TASKS = ["in_hospital_mortality", "readmission"]
TINY: dict[str, Any] = {
    "synthetic": {"patients": 40, "seed": 3},
    "notes": {"max_tokens": 16},
    "train": {
        "hidden_dim": 8, "layers": 1, "epochs": 1, "baseline_epochs": 1, "max_hours": 24, "device": "cpu",
        "seeds": [42], "baselines": ["mt"], "tasks": TASKS,
    },
}  # fmt: skip
"""A configuration that builds and trains in a minute."""


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` on top, section by section."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def snakemake(
    folder: Path,
    *arguments: str,
    config: Mapping[str, Any] | None = None,
    expect: int = 0,
    checkout: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run the workflow in ``folder``; returns what it printed.

    Args:
        config: written to a file and given by ``--configfile``; None: no configuration file.
        checkout: whose Snakefile is used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "-s", str(checkout / "Snakefile"), "--nocolor", *arguments]
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
        command += ["--configfile", "config.yaml"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | dict(environment or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == expect, done.stdout[-6000:]
    return done.stdout


def jobs(text: str) -> dict[str, int]:
    """Jobs by rule, from the table that Snakemake prints; none where there is nothing to be done."""
    counts: dict[str, int] = {}
    for line in text.partition("Job stats:")[2].splitlines()[3:]:
        words = line.split()
        if len(words) != 2 or words[0] == "total":
            break
        counts[words[0]] = int(words[1])
    return counts


def plan_and_build(folder: Path, *arguments: str, config: Mapping[str, Any]) -> dict[str, int]:
    """Build and return the jobs; the dry run before must show the same, and a second run must have nothing to do."""
    planned = jobs(snakemake(folder, "-n", *arguments, config=config))
    built = jobs(snakemake(folder, "--cores", "2", *arguments, config=config))
    assert built == planned
    assert "Nothing to be done" in snakemake(folder, "--cores", "2", *arguments, config=config)
    return built


def digests(folder: Path) -> dict[str, str]:
    """sha256 of the published data and cohorts."""
    files = [path for top in ("data", "cohorts") for path in sorted((folder / top).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def copy_checkout(folder: Path) -> Path:
    """The workflow and its packages in ``folder``, to be changed by a test."""
    for name in ("flexcare_data", "flexcare_model", "rules", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    return folder
