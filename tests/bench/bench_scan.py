"""CPU time of the event scan alone, without inflating: to compare two versions of its compiled loops.

    python tests/bench/bench_scan.py --raw DIR --stays DIR [--megabytes 480] [--passes 12]

In: a folder of MIMIC-IV (see fabricate.py) and its folder of the stage `stays`. The first inflated megabytes of
chartevents are held in memory and scanned again and again. Prints the least and the median CPU seconds per million rows
over the passes, and the number of rows and pairs, which must be the same for both versions. The least is the figure to
compare: it suffers least from other work on the machine. Run both versions in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from flexcare_data.raw import event_scan
from flexcare_data.raw.event_values import PairTable
from flexcare_data.raw.files import locate, open_bytes
from flexcare_data.stages.events.build import kept_stays
from flexcare_data.variables import ITEMS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder of MIMIC-IV")
    parser.add_argument("--stays", type=Path, required=True, help="folder of the stage stays")
    parser.add_argument("--megabytes", type=int, default=480, help="inflated bytes to scan")
    parser.add_argument("--passes", type=int, default=12)
    args = parser.parse_args()
    path = locate(args.raw, "chartevents")
    with open_bytes(path) as stream:
        data = stream.read(args.megabytes << 20)
    data = data[: data.rfind(b"\n") + 1]

    def blocks(_path: Path, _progress: Callable | None) -> Iterator[bytes]:
        for start in range(0, len(data), event_scan.BLOCK):
            yield data[start : start + event_scan.BLOCK]

    event_scan._blocks = blocks
    kept = kept_stays(pl.read_parquet(args.stays / "stays.parquet"))
    itemids = np.array([item.itemid for item in ITEMS])
    seconds = []
    for _ in range(args.passes + 1):
        counts, pairs = event_scan.ScanCounts(), PairTable()
        begin = time.process_time()
        for _rows in event_scan.scan_events(path, "chartevents", itemids, kept, pairs, counts):
            pass
        seconds.append((time.process_time() - begin) / counts.rows * 1e6)
    seconds = seconds[1:]  # the first pass compiles
    print(f"CPU seconds per million rows: least {min(seconds):.4f}, median {statistics.median(seconds):.4f}")
    print(f"{counts.rows:,} rows, {counts.used:,} used, {len(pairs):,} pairs")


if __name__ == "__main__":
    main()
