"""How fast a radiograph becomes a tensor on one core, against a full decode and resize by the same library.

Run: python tests/bench/bench_images.py [--images 8] [--rounds 3]. Generated JPEGs of 2544 x 3056 (and those of open-cxr
if present), in memory; both ways interleaved, CPU time of one thread. Goals: ratio at least 1.7, mean absolute
difference at most 0.2 and largest at most 4 levels.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from flexcare_data.modalities import IMAGE_SIDE
from flexcare_data.stages.images.decoding import decode

OPEN_DATA = Path(os.environ.get("FLEXCARE_OPEN_DATA") or Path(__file__).resolve().parents[3] / "shared")


def full(data: bytes) -> np.ndarray:
    """Every pixel decoded, shorter side to 256, centre."""
    image = Image.open(io.BytesIO(data)).convert("L")
    short = min(image.size)
    size = tuple(int(IMAGE_SIDE * side / short) for side in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - IMAGE_SIDE) / 2) for side in size)
    return np.asarray(image.crop((left, top, left + IMAGE_SIDE, top + IMAGE_SIDE)))


def generated(number: int) -> bytes:
    """A grey picture of 2544 x 3056 with edges, slopes and film grain; 1.6 MB as MIMIC-CXR's are on average."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:3056, 0:2544] / 2544.0
    picture = 128 + 60 * np.sin(4 * x + number) * np.cos(3 * y) + 30 * (np.sin(40 * y + 8 * np.sin(6 * x)) > 0.3)
    picture += rng.normal(0, 3.5, picture.shape)
    buffer = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=89)
    return buffer.getvalue()


def cpu_seconds(action, data: bytes) -> tuple[float, np.ndarray]:
    start = time.process_time()
    tensor = action(data)
    return time.process_time() - start, tensor


def measure(name: str, files: list[bytes], rounds: int) -> None:
    ratios, means, largest, ours = [], [], 0, []
    for _ in range(rounds):
        for data in files:
            slow, expected = cpu_seconds(full, data)
            fast, got = cpu_seconds(decode, data)
            difference = np.abs(got.astype(int) - expected)
            ratios.append(slow / fast)
            ours.append(fast)
            means.append(difference.mean())
            largest = max(largest, int(difference.max()))
    size = np.mean([len(data) for data in files]) / 1e6
    print(
        f"{name:10s} {len(files)} files of {size:.2f} MB: {np.median(ours) * 1e3:.1f} ms, ratio "
        f"{np.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), mean difference {max(means):.3f}, "
        f"largest {largest}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    measure("generated", [generated(number) for number in range(args.images)], args.rounds)
    paths = sorted((OPEN_DATA / "open-cxr" / "images").glob("*.jpg"))[: args.images]
    if paths:
        measure("open-cxr", [path.read_bytes() for path in paths], args.rounds)


if __name__ == "__main__":
    main()
