"""Raw events to the finished hourly store, measured beside `gzip -dc` of the same files.

    python tests/bench/bench_events.py [--rows 20000000] [--rounds 3] [--threads 2] [--double] [--raw DIR] [--work DIR]

Fabricates chartevents and labevents (or takes those of --raw), then in turns: `gzip -dc` of both files to nowhere; the
subcommands `events` and `hourly`, each in a separate process as in the workflow: linking, cleaning, duplicate rules,
grid, fill, masks and counts. One run before is not counted (it compiles the loops and fills the page cache).

Prints wall and CPU time, their ratio to `gzip -dc` (median, smallest and largest of the rounds), rows per second, and
the peak of anonymous memory of the process tree, polled every 20 ms. Exit status 1 if the median wall ratio is above
0.9, the peak is above 600 MB, or (--double: as many rows again over the same stays) memory grows by more than 5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
MOST_WALL = 0.9
MOST_MEMORY = 600e6
MOST_GROWTH = 1.05
_SECONDS_BETWEEN_POLLS = 0.02


@dataclass(frozen=True)
class Run:
    """Seconds of wall clock and of processors, and the peak of anonymous memory in bytes."""

    wall: float
    cpu: float
    peak: int

    def __add__(self, other: Run) -> Run:
        return Run(self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak))


def measure(command: Sequence[str]) -> Run:
    """Run ``command`` from the repository and watch it and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_SECONDS_BETWEEN_POLLS):
            peak = max(peak, anonymous_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    wall = time.perf_counter() - begin
    done.set()
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        sys.exit(f"{' '.join(command)}: exit status {status}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, peak)


def anonymous_bytes(pid: int) -> int:
    """Anonymous resident memory of a process and all its children; mapped files do not count."""
    total = 0
    for child in [pid, *_children(pid)]:
        try:
            status = Path(f"/proc/{child}/status").read_text()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(word) for word in listing.read_text().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *_children(child)]
    return found


def subcommand(name: str, out: Path, *arguments: str) -> list[str]:
    shutil.rmtree(out, ignore_errors=True)
    return [sys.executable, "-m", "flexcare_data", name, *arguments, "--out", str(out)]


def store(raw: Path, work: Path, threads: int) -> Run:
    """events and hourly, from nothing."""
    upstream = ["--stays", str(work / "stays")]
    limits = ["--threads", str(threads)]
    events = measure(subcommand("events", work / "events", "--mimiciv", str(raw), *upstream, *limits))
    splits = ["--splits", str(work / "splits"), "--events", str(work / "events")]
    return events + measure(subcommand("hourly", work / "hourly", *upstream, *splits, *limits))


def compare(raw: Path, work: Path, *, rounds: int, threads: int) -> tuple[Run, bool]:
    """Measure, print, and return whether the bounds hold."""
    files = [str(raw / "icu" / "chartevents.csv.gz"), str(raw / "hosp" / "labevents.csv.gz")]
    for name in ("stays", "splits"):
        measure(subcommand(name, work / name, "--mimiciv", str(raw)))
    store(raw, work, threads)
    ours, base = [], []
    for _ in range(rounds):
        base.append(measure(["gzip", "-dc", *files]))
        ours.append(store(raw, work, threads))
    rows = _rows(work)
    wall = [run.wall / other.wall for run, other in zip(ours, base, strict=True)]
    cpu = [run.cpu / other.cpu for run, other in zip(ours, base, strict=True)]
    median = statistics.median(run.wall for run in ours)
    peak = max(run.peak for run in ours)
    print(f"  rows {rows:,}; files {sum(Path(file).stat().st_size for file in files) / 1e6:,.0f} MB")
    print(f"  gzip -dc      wall {_spread([run.wall for run in base])} s, cpu {_spread([run.cpu for run in base])} s")
    print(f"  hourly store  wall {_spread([run.wall for run in ours])} s, cpu {_spread([run.cpu for run in ours])} s")
    print(f"  ratio         wall {_spread(wall)}, cpu {_spread(cpu)} (bound on wall {MOST_WALL})")
    print(f"  {rows / median:,.0f} rows/s; peak anonymous memory {peak / 1e6:,.0f} MB (bound {MOST_MEMORY / 1e6:,.0f})")
    return Run(median, 0.0, peak), statistics.median(wall) <= MOST_WALL and peak <= MOST_MEMORY


def _rows(work: Path) -> int:
    flow = json.loads((work / "events" / "flow.json").read_text())
    return sum(steps[0]["rows"] for steps in flow.values())


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{model}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}"


def _fabricate(out: Path, rows: int, stays: int, *, double: bool = False) -> Path:
    command = [
        sys.executable,
        str(Path(__file__).with_name("fabricate.py")),
        "--rows",
        str(rows),
        "--stays",
        str(stays),
    ]
    subprocess.run([*command, "--out", str(out), *(["--double"] if double else [])], check=True, cwd=REPOSITORY)
    return out / "mimiciv"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of chartevents to fabricate (about)")
    parser.add_argument("--stays", type=int, help="ICU stays (default: one per 2,000 rows)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--double", action="store_true", help="also measure twice the rows over the same stays")
    parser.add_argument("--raw", type=Path, help="folder of MIMIC-IV to take instead of fabricating")
    parser.add_argument("--double-raw", type=Path, help="the same with twice the rows, for --double")
    parser.add_argument("--work", type=Path, help="folder for what is made (default: a temporary one)")
    args = parser.parse_args()
    stays = args.stays or max(100, args.rows // 2000)
    print(_machine())
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-events-")))
        raw = (args.raw or _fabricate(work / "raw", args.rows, stays)).resolve()
        print(f"{'given' if args.raw else 'fabricated'} tables, {args.threads} threads, {args.rounds} rounds")
        single, good = compare(raw, work.resolve() / "single", rounds=args.rounds, threads=args.threads)
        if args.double:
            twice = (args.double_raw or _fabricate(work / "raw2", args.rows, stays, double=True)).resolve()
            print("twice the rows over the same stays")
            double, fast = compare(twice, work.resolve() / "double", rounds=args.rounds, threads=args.threads)
            growth = double.peak / single.peak
            print(f"  memory of twice the rows: {growth:.3f} times (bound {MOST_GROWTH})")
            good = good and fast and growth <= MOST_GROWTH
    print("within the bounds" if good else "OUT OF BOUNDS")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
