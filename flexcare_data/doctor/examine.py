"""Checks before anything runs: data sets, their pairing, note encoder, disk, memory, GPU.

In: a `Config`. Out: a `Report` with all findings. Reads little: headers, the small tables, samples of the large
ones; `fast` leaves out what takes more than a second or two. Findings hold counts and names, never a patient's value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from flexcare_data.config import Config
from flexcare_data.doctor import datasets, deaths, fabricated, machine, pairing
from flexcare_data.doctor.datasets import DataSet
from flexcare_data.doctor.findings import Report
from flexcare_data.doctor.sampling import Probe
from flexcare_data.encoder_files import encoder_setting
from flexcare_data.modalities import IMAGE_SIDE, MAX_NOTE_TOKENS, NOTE_WIDTH
from flexcare_data.options import cautions
from flexcare_data.raw import editions
from flexcare_data.raw.files import TITLES, WHERE
from flexcare_data.tasks import TASKS
from flexcare_data.variables import VARIABLES

BYTES = {
    "event": 20 + 29 + 12,  # bucket row, settled row, and the row in events.parquet
    "hour": len(VARIABLES) * (8 + 1),  # values.npy and observed.npy
    "radiograph": IMAGE_SIDE**2,
}
"""Bytes on disk of one of each, to estimate the size of a build."""
NOTE_PIECES = 120
"""Word pieces of a section, and of findings and impression of a report, on average."""
EVENT_SHARE = {"chartevents": 0.28, "labevents": 0.04}
"""Share of the rows that are of used items."""
HOURS_PER_STAY = 87
AP_SHARE = 0.39
"""Share of AP radiographs among all."""
MEMORY = {"event tables": 600 << 20, "note encoder": 3 << 30}
"""Peak memory of the stages that need most: measured on tables of 20 million rows; BERT-base with a batch of 8,192
word pieces. Small tables take about six times their text."""


def examine(
    config: Config,
    *,
    fast: bool = False,
    checksums: Literal["tables", "all"] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check everything that a build of ``config`` needs.

    Args:
        fast: leave out what reads more than headers and the small tables: overlap of patients, radiographs on disk.
        checksums: compare the files with the release's SHA256SUMS.txt: the tables, or all files (radiographs too).
        progress: called with the bytes done and the total while checksums are computed.
    """
    report = Report()
    sets = {}
    for root in TITLES:
        folder = getattr(config.raw, root)
        if folder is None:
            _absent(report, root)
            _without_samples(report, root, config)
        elif found := datasets.look_at(
            report, root, Path(folder), config.tasks, fast=fast, with_reports=_reads_reports(config)
        ):
            sets[root] = found
    pairing.check_pairing(report, sets)
    if not fast:
        pairing.check_patients(report, sets)
        deaths.check_deaths(report, sets, config.resolved_options)
        pairing.check_radiographs(report, sets, config)
        _left_out_of_runs(report, config)
        fabricated.check_fingerprint(report, config)
    for caution in cautions(config.resolved_options):
        report.add("warning", "options", caution)
    if checksums:
        for found in sets.values():
            datasets.compare_checksums(report, found.folder, checksums == "all", progress)
    _encoder(report, config)
    _needs(report, sets, config)
    _gpu(report, config)
    _expected_sizes(report, sets, config)
    return report


def _without_samples(report: Report, root: str, config: Config) -> None:
    """Tasks that have no samples because a data set is not set."""
    needing = [task for task in config.tasks if root in TASKS[task].data_sets]
    if needing and not config.is_synthetic:
        report.add(
            "warning", ", ".join(needing), f"no samples, as raw.{root} is not set; left out of training",
            do=f"set raw.{root} to the folder of {TITLES[root]}",
        )  # fmt: skip


def _left_out_of_runs(report: Report, config: Config) -> None:
    """Tasks that a finished run left out, as their cohorts turned out to have no training samples."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for path in sorted((config.output / "runs").glob("*/*/seed*/metrics.json")):
        for task, reason in json.loads(path.read_text()).get("left_out", {}).items():
            model, experiment = path.parts[-4:-2]
            found.setdefault((model, experiment, reason), []).append(task)
    for (model, experiment, reason), tasks in found.items():
        report.add(
            "warning", f"run of {model} on {experiment}", f"{', '.join(dict.fromkeys(tasks))} left out: {reason}",
            do="add the data, or take the task out of train.tasks",
        )  # fmt: skip


def _absent(report: Report, root: str) -> None:
    what, text = f"raw.{root}", {
        "mimiciv": "not set: fabricated data is built instead, results have no meaning",
        "mimic_cxr_jpg": "not set: no sample has a radiograph, and task diagnosis is empty",
        "mimic_iv_note": "not set: no sample has a note, and task drg is empty",
    }[root]  # fmt: skip
    report.add("info", what, text, do=f"{TITLES[root]}: {WHERE[root]} (credentialed access)")


def _encoder(report: Report, config: Config) -> None:
    name = config.notes.encoder
    if problem := machine.encoder_problem(name):
        found, do = problem
        needed = config.raw.mimic_iv_note is not None
        report.add("warning" if needed else "info", f"note encoder {name}", found, expected="an encoder on disk", do=do)
        return
    small = " (small and random: for trials only)" if name == "tiny" else ""
    report.add("info", f"note encoder {name}", f"present{small}")
    longest = MAX_NOTE_TOKENS if name == "tiny" else encoder_setting(Path(name), "max_position_embeddings")
    if longest is not None and config.notes.max_tokens > longest:
        report.add(
            "error", "notes.max_tokens", f"{config.notes.max_tokens:,}",
            expected=f"at most {longest:,}, the positions of the note encoder", do="set a smaller number",
        )  # fmt: skip


def _reads_reports(config: Config) -> bool:
    return config.resolved_options.notes == "radiology"


def _needs(report: Report, sets: Mapping[str, DataSet], config: Config) -> None:
    probes = {name: p for found in sets.values() for name, p in found.probes.items()}
    disk = disk_parts(probes, config)
    free = machine.free_disk(config.store_path)
    total = sum(disk.values())
    streamed = ("chartevents", "labevents", "discharge", "radiology")
    small = max((p.inflated for name, p in probes.items() if name not in streamed), default=0)
    memory = dict(MEMORY) | {"small tables": 6 * small}
    if config.raw.mimic_iv_note is None:
        del memory["note encoder"]
    there = machine.memory()
    report.needs = {
        "disk": {"parts": disk, "total": total, "free": free},
        "memory": {"parts": memory, "peak": max(memory.values()), "there": there},
    }
    parts = ", ".join(f"{name} {_size(n)}" for name, n in disk.items())
    if not machine.is_writable(config.store_path):
        report.add(
            "error",
            f"store {config.store_path}",
            "no permission to write",
            do="set store.path or output to a folder of yours",
        )
    report.add(
        "warning" if free < total else "info", f"disk of {config.store_path}", f"{_size(free)} free",
        expected=f"about {_size(total)} (estimated from rows: {parts or 'nothing yet'})",
        do="set store.path to a larger disk, notes.storage to int8 or tokens" if free < total else "",
    )  # fmt: skip
    if there is not None:
        peak = max(memory, key=lambda part: memory[part])
        report.add(
            "warning" if there < memory[peak] else "info", "memory", f"{_size(there)} available",
            expected=f"about {_size(memory[peak])} ({peak})",
            do="use a machine with more memory" if there < memory[peak] else "",
        )  # fmt: skip


def disk_parts(probes: dict[str, Probe], config: Config) -> dict[str, int]:
    """Bytes that a build writes at most, by kind, estimated from the rows of the tables."""
    rows = {name: p.rows for name, p in probes.items()}
    events = sum(share * rows.get(name, 0) for name, share in EVENT_SHARE.items())
    parts = {
        "events": events * BYTES["event"],
        "hourly grids": rows.get("icustays", 0) * HOURS_PER_STAY * BYTES["hour"],
        "radiographs": rows.get("metadata", 0) * AP_SHARE * BYTES["radiograph"],
        "note vectors": _note_texts(rows, config) * NOTE_PIECES * _piece_bytes(config),
    }
    return {name: int(n) for name, n in parts.items() if n}


def _note_texts(rows: Mapping[str, int], config: Config) -> int:
    """Texts that are embedded, at most."""
    if not _reads_reports(config):
        return rows.get("discharge", 0) * len({TASKS[task].section for task in config.tasks})
    # A sample is a stay, a study or an admission with a summary.
    samples = len(config.tasks) * rows.get("icustays", 0) + rows.get("metadata", 0) + rows.get("discharge", 0)
    return min(rows.get("radiology", 0), config.notes.reports * samples)


def _piece_bytes(config: Config) -> int:
    width = encoder_setting(Path(config.notes.encoder), "hidden_size", "dim", "d_model") or NOTE_WIDTH
    return {"float16": 2 * width, "int8": width + 2, "tokens": 4}[config.notes.storage]


def _gpu(report: Report, config: Config) -> None:
    found = machine.gpus()
    asked = [key for key in ("notes", "train") if getattr(config, key).device == "cuda"]
    if found:
        report.add("info", "GPU", "; ".join(found))
    elif asked:
        report.add(
            "error",
            "GPU",
            "none",
            expected=f"one, as {asked[0]}.device is cuda",
            do=f"set {asked[0]}.device to auto or cpu",
        )
    else:
        report.add(
            "info", "GPU", "none: notes are embedded and models trained on the CPU, which takes days at full size"
        )


def _expected_sizes(report: Report, sets: Mapping[str, DataSet], config: Config) -> None:
    """Sizes of the cohorts where they are known beforehand."""
    iv = sets.get("mimiciv")
    if iv is None or iv.is_synthetic or not iv.edition.is_exact:
        return
    if "2.0" in iv.edition.names and config.protocol == "flexcare":
        sizes = ", ".join(f"{task} {n:,}" for task, n in editions.PAPER_COHORTS.items() if task in config.tasks)
        report.add("info", "cohorts to expect", f"{sizes} (paper, with CXR-JPG 2.0.0 and Note 2.2)")
    elif "demo 2.2" in iv.edition.names:
        report.add(
            "info", "cohorts to expect", f"ICU stays after each step: {', '.join(map(str, editions.DEMO_STAYS))}"
        )
    else:
        report.add("info", "cohorts to expect", "no sizes are published for this edition; the paper's belong to 2.0")


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:,.1f} GB"
