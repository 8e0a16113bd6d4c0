"""The workflow on a real SLURM: the same bytes as on one machine, few jobs, GPUs asked for, memory that grows.

Run by `make test-slurm`. Skipped where SLURM or munge is not installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.paths import ROOT
from support.slurm_node import ACCOUNTING, PROGRAMS, missing, slurm_node

from flexcare_data.config import load_config
from flexcare_data.plan import Plan
from flexcare_model.training.log import LOG

CONFIG = {
    "synthetic": {"patients": 60, "seed": 3},
    "tasks": ["in_hospital_mortality", "diagnosis", "drg"],
    "resources": {"memory_mb": 1000, "image_processes": 2},
    "images": {"jobs": 2},
    "notes": {"max_tokens": 32, "jobs": 2, "device": "auto"},
    "train": {
        "tasks": ["in_hospital_mortality", "diagnosis"], "hidden_dim": 16, "layers": 1, "epochs": 1, "max_hours": 48,
        "device": "auto", "baselines": [],
    },
}  # fmt: skip
# Stages in the queue: everything else takes seconds, and is made where snakemake runs.
JOBS = {
    "synthetic": 1, "stays": 1, "splits": 1, "events": 1, "hourly": 1, "radiographs": 1, "sections": 1, "cohort": 3,
    "audit": 1, "fingerprint": 1, "images_part": 2, "images": 1, "encoder": 1, "notes_part": 2, "notes": 1, "train": 1,
}  # fmt: skip
# The node is near and quick, so there is no need to wait as on a cluster.
QUICK = ("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")
SLURM = ("--workflow-profile", str(ROOT / "profiles" / "slurm"), *QUICK)

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing(PROGRAMS)), reason=f"not installed: {', '.join(missing(PROGRAMS))}"),
]


@pytest.fixture(scope="module")
def node() -> Iterator[dict[str, str]]:
    with slurm_node(gpus=2) as environment:
        yield environment


def snakemake(
    folder: Path, *arguments: str, config: dict, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run the workflow in ``folder``; exit status and what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--configfile", "config.yaml"]
    done = subprocess.run(
        [*command, "--nocolor", *arguments],
        cwd=folder, env=environment or dict(os.environ), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every published file and of the store, whatever the key of what a link shows.

    Left out are logs (also those of the trainings), measurements, and what holds paths: `by_key/`, which published
    names lead into, and origin.json.
    """
    found = {}
    for place, folders, files in os.walk(folder, followlinks=True):
        inside = Path(place).relative_to(folder)
        if inside == Path():
            folders[:] = sorted(set(folders) - {"logs", "benchmarks", "by_key"})
            files = sorted(set(files) - {"origin.json"})
        files = [name for name in files if name != LOG]
        found |= {str(inside / name): hashlib.sha256(Path(place, name).read_bytes()).hexdigest() for name in files}
    return found


def submitted(node: dict[str, str]) -> list[tuple[str, str, str, int]]:
    """Rule, GPUs, state and memory in MB of every job that the node has seen, oldest first."""
    columns = "Comment:80|,tres-per-job:40|,State:20|,MinMemory:20"
    listing = subprocess.run(
        ["squeue", "--states=all", "--sort=i", "--noheader", f"--Format={columns}"],
        env=node, check=True, capture_output=True, text=True,
    )  # fmt: skip
    jobs = []
    for line in listing.stdout.splitlines():
        comment, gpus, state, memory = (cell.strip() for cell in line.rstrip("|").split("|"))
        rule = comment.removeprefix("rule_").split("_wildcards_")[0]
        jobs.append((rule, gpus, state, int(float(memory.rstrip("MG")) * (1024 if memory.endswith("G") else 1))))
    return jobs


@pytest.fixture(scope="module")
def run(node, tmp_path_factory) -> Path:
    """Working directory of `snakemake all` on the node."""
    folder = tmp_path_factory.mktemp("cluster")
    status, text = snakemake(folder, *SLURM, "all", config=CONFIG, environment=node)
    assert status == 0, text[-6000:]
    return folder


def test_only_the_stages_are_jobs(run, node):
    jobs = submitted(node)
    assert Counter(rule for rule, *_ in jobs) == JOBS
    assert {state for *_, state, _ in jobs} == {"COMPLETED"}
    assert {rule for rule, gpus, *_ in jobs if gpus.endswith("gpu:1")} == {"notes_part", "train"}


def test_the_bytes_are_those_of_one_machine(run, tmp_path):
    """And of one job per stage: the cluster decoded and embedded in two. Two pages show settings and times."""
    alone = {**CONFIG, "images": {"jobs": 1}, "notes": {**CONFIG["notes"], "jobs": 1}}
    status, text = snakemake(tmp_path, "--cores", "2", "all", config=alone)
    assert status == 0, text[-6000:]
    ours, theirs = digests(tmp_path / "results"), digests(run / "results")
    assert ours.keys() == theirs.keys()
    published = {"runs/flexcare/six_tasks/seed42/metrics.json", "data/cxr/index.parquet", "report_tables/table3.csv"}
    assert published <= set(ours)
    assert {name for name in ours if ours[name] != theirs[name]} <= {"report.html", "card/DATASET_CARD.md"}


def test_a_second_run_sends_nothing(run, node):
    before = len(submitted(node))
    status, text = snakemake(run, *SLURM, "all", config=CONFIG, environment=node)
    assert (status, "Nothing to be done" in text) == (0, True), text[-3000:]
    assert len(submitted(node)) == before


def test_a_job_killed_for_memory_is_sent_again_with_more(run, node):
    """And where it is not sent again, the message names the log of the command and that of SLURM."""
    config = {**CONFIG, "options": {"age": "at_admission"}, "resources": {"memory_mb": 200}}
    target = str(Plan(load_config(config)).product("stays").done)
    before = len(submitted(node))
    status, text = snakemake(run, *SLURM, "--retries", "0", target, config=config, environment=node)
    assert status == 1, text[-3000:]
    assert re.search(r"log: results/logs/stays-[0-9a-f]{12}\.log, (\S+\.log) \(check log file", text), text[-3000:]
    slurm_log = Path(re.search(r"log: results/logs/\S+, (\S+\.log)", text)[1])
    assert "exceeded memory limit" in slurm_log.read_text()
    status, text = snakemake(run, *SLURM, target, config=config, environment=node)
    assert status == 0, text[-3000:]
    assert (run / target).is_file()
    tried = submitted(node)[before:]
    assert [memory for *_, memory in tried][:3] == [200, 200, 400]
    assert [state for *_, state, _ in tried][-1] == "COMPLETED"


@pytest.mark.skipif(bool(missing(ACCOUNTING)), reason=f"not installed: {', '.join(missing(ACCOUNTING))}")
def test_with_accounting(run):
    """Where sacct answers, the same profile works: one job, on the data of the other node."""
    config = {**CONFIG, "options": {"readmission": "hospital"}}
    target = str(Plan(load_config(config)).product("stays").done)
    with slurm_node(accounting=True) as node:
        status, text = snakemake(run, *SLURM, target, config=config, environment=node)
        assert status == 0, text[-3000:]
        assert [rule for rule, *_ in submitted(node)] == ["stays"]
        for _ in range(30):  # the database hears of it a little later
            listing = subprocess.run(["sacct", "-X", "-n", "-o", "State"], env=node, capture_output=True, text=True)
            if listing.stdout.split() == ["COMPLETED"]:
                break
            time.sleep(1)
        assert listing.stdout.split() == ["COMPLETED"], listing.stderr
