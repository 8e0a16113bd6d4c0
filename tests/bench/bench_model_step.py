"""A training step of FlexCare: the block form of the encoder against the dense form.

Run: python tests/bench/bench_model_step.py [--rounds 5]. Fabricated batches of 32 with the availability of the paper's
table 2, task by task; both forms in turn, the ratios are medians over the rounds, of wall time and of CPU time (the
steadier one where other jobs run). Then the peak memory with everything present at 512 hours and 512 note tokens.
Goals on a CPU: at least 3 times the samples per second, a third of the memory. Lengths: 48 hours for in-hospital
mortality, else log-normal with a mean of 85 hours; notes with a mean of 107 word pieces; both cut at 512.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from flexcare_data.modalities import MAX_NOTE_TOKENS
from flexcare_data.tasks import TASKS
from flexcare_model.data.batch import CROP_SIDE, MAX_HOURS, Batch
from flexcare_model.models import MODELS, Model, ModelConfig

SAMPLES = 32
MEAN_HOURS, MEAN_TOKENS, SPREAD = 85, 107, 0.8


@dataclass(frozen=True)
class Cohort:
    """Number of samples of a task and missing share of series, image and note (table 2 of the paper)."""

    samples: int
    missing: tuple[float, float, float]


COHORTS = {
    "in_hospital_mortality": Cohort(26_318, (0.0, 0.7640, 0.0749)),
    "length_of_stay": Cohort(59_495, (0.0, 0.8516, 0.0827)),
    "decompensation": Cohort(59_269, (0.0, 0.8515, 0.0824)),
    "phenotyping": Cohort(59_798, (0.0, 0.8194, 0.0830)),
    "readmission": Cohort(55_712, (0.0, 0.8238, 0.0806)),
    "diagnosis": Cohort(132_576, (0.7634, 0.0, 0.3256)),
}


def fabricate(task: str, size: int, seed: int, *, full: bool = False) -> Batch:
    """A batch of ``task`` with table 2's availability, or with everything present at full length."""
    rng = np.random.default_rng(seed)
    present = rng.random((size, 3)) >= np.array(COHORTS[task].missing)
    hours = np.clip(rng.lognormal(np.log(MEAN_HOURS) - SPREAD**2 / 2, SPREAD, size), 5, MAX_HOURS).astype(np.int64)
    tokens = rng.lognormal(np.log(MEAN_TOKENS) - SPREAD**2 / 2, SPREAD, size)
    tokens = np.clip(tokens, 1, MAX_NOTE_TOKENS).astype(np.int64)
    if task == "in_hospital_mortality":
        hours[:] = 48
    if full:
        present[:], hours[:], tokens[:] = True, MAX_HOURS, MAX_NOTE_TOKENS
    hours, tokens = hours * present[:, 0], tokens * present[:, 2]
    kind, labels = TASKS[task].kind, len(TASKS[task].labels)
    label = rng.integers(0, 2, (size, labels) if kind == "multilabel" else size)
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        ts=torch.randn(size, max(1, hours.max()), 76, generator=generator),
        ts_len=torch.from_numpy(hours),
        img=torch.randn(size, 3, CROP_SIDE, CROP_SIDE, generator=generator),
        note_tok=torch.randn(size, tokens.max(), 768, generator=generator),
        note_len=torch.from_numpy(tokens),
        present=torch.from_numpy(present),
        label=torch.from_numpy(label).float(),
        task=TASKS[task].id,
    )


def make(encoder: str) -> tuple[Model, torch.optim.Optimizer]:
    torch.manual_seed(0)
    outputs = {name: TASKS[name].n_outputs for name in COHORTS}
    model = MODELS["flexcare"](ModelConfig(encoder=encoder), outputs).train()
    return model, torch.optim.Adam(model.parameters(), lr=1e-4)


def step(model: Model, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    optimizer.zero_grad(set_to_none=True)
    model.loss(model(batch), batch).backward()
    optimizer.step()


def timed(model: Model, optimizer: torch.optim.Optimizer, batch: Batch) -> tuple[float, float]:
    """Wall and CPU seconds of a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    step(model, optimizer, batch)
    if batch.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(rounds: int, device: str, tasks: list[str]) -> None:
    """Print samples per second of both forms and their ratios, per task and for an epoch over these tasks."""
    forms = {name: make(name) for name in ("blocks", "dense")}
    for model, _ in forms.values():
        model.to(device)
    epoch = dict.fromkeys(forms, 0.0)
    print(f"{'':24}{'samples per second':>24}{'blocks faster by':>24}")
    print(f"{'task':24}{'blocks':>12}{'dense':>12}{'wall':>12}{'CPU':>12}")
    for number, task in enumerate(tasks):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        for turn in range(-1, rounds):  # the first turn warms up
            batch = fabricate(task, SAMPLES, seed=100 * number + turn + 1).to(device)
            for name, (model, optimizer) in forms.items():
                taken = timed(model, optimizer, batch)
                if turn >= 0:
                    times[name].append(taken)
        rate = {name: SAMPLES / statistics.median(wall for wall, _ in taken) for name, taken in times.items()}
        pairs = list(zip(times["blocks"], times["dense"], strict=True))
        wall, cpu = (statistics.median(dense[kind] / blocks[kind] for blocks, dense in pairs) for kind in (0, 1))
        print(f"{task:24}{rate['blocks']:12.1f}{rate['dense']:12.1f}{wall:12.2f}{cpu:12.2f}", flush=True)
        for name in forms:
            epoch[name] += COHORTS[task].samples / rate[name]
    samples = sum(COHORTS[task].samples for task in tasks)
    rates = {name: samples / seconds for name, seconds in epoch.items()}
    ratio = epoch["dense"] / epoch["blocks"]
    print(f"{'all, by cohort size':24}{rates['blocks']:12.1f}{rates['dense']:12.1f}{ratio:12.2f}")


def peak_memory(encoder: str) -> int:
    """Bytes that a training step adds at its peak to what model and batch hold, with everything present."""
    model, optimizer = make(encoder)
    batch = fabricate("phenotyping", SAMPLES, seed=0, full=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(model, optimizer, batch)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def memory() -> None:
    """Print the peak memory of both forms, each in a separate process, and their ratio."""
    peaks = {}
    for encoder in ("blocks", "dense"):
        command = [sys.executable, __file__, "--peak", encoder]
        peaks[encoder] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"peak memory of a step with everything present, 512 hours, 512 tokens, batch {SAMPLES}:")
    print("".join(f"  {name} {peak / 2**30:.2f} GiB" for name, peak in peaks.items()), end="")
    print(f"  blocks/dense {peaks['blocks'] / peaks['dense']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed batches per task")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (memory is measured on the cpu only)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--tasks", nargs="+", choices=COHORTS, default=list(COHORTS), help="tasks to time")
    parser.add_argument("--peak", choices=("blocks", "dense"), help="print the peak memory of one form in bytes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak_memory(args.peak))
        return
    speed(args.rounds, args.device, args.tasks)
    if args.device == "cpu":
        memory()


if __name__ == "__main__":
    main()
