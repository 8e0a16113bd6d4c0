"""How long a batch of 32 takes to assemble, against a plain copy of the same bytes (images counted apart).

Run: PYTHONPATH=tests python tests/bench/bench_batches.py [--rounds 20]. Warm shards, 512 hours and 512 tokens in every
sample, the two ways interleaved in one process; printed are medians and their ratio. Goal for series and note together:
about 3, which is below 2 % of a training step on a CPU; a faster way is not worth a second implementation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from support.fabricated_samples import write_output

from flexcare_model.data.dataset import load_task
from flexcare_model.data.image_transforms import draw_affine, model_images, normalise, warp

BATCH = 32


def seconds(action) -> float:
    start = time.thread_time()  # one thread; CPU time is steadier than wall time beside other jobs
    action()
    return time.thread_time() - start


def compare(name: str, ours, copy, rounds: int) -> None:
    ours(), copy()
    pairs = [(seconds(ours), seconds(copy)) for _ in range(rounds)]
    one, two = np.median([p[0] for p in pairs]), np.median([p[1] for p in pairs])
    ratio = np.median([a / b for a, b in pairs])
    print(f"{name:46s} {one * 1e3:8.2f} ms   copy {two * 1e3:8.2f} ms   ratio {ratio:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for storage in ("float16", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            output = write_output(Path(folder), stays=96, hours=(520, 600), tokens=(512, 513), storage=storage)
            for modalities in (("time_series",), ("note",), ("time_series", "note")):
                data = load_task(output, "phenotyping", None, modalities=modalities)
                full = np.flatnonzero((data.inputs.places["note"][:, 1] == 512) | ("note" not in modalities))
                rows = rng.permutation(full)[:BATCH]
                batch = data.batch(rows)
                tensors = [batch.ts, batch.note_tok][slice("time_series" not in modalities, 1 + ("note" in modalities))]
                tensors = [tensor.numpy() for tensor in tensors]
                title = f"{' + '.join(modalities)} ({storage}), {sum(t.nbytes for t in tensors) / 2**20:.0f} MB"
                compare(title, lambda d=data, r=rows: d.batch(r), lambda t=tensors: [a.copy() for a in t], rounds)
            images = load_task(output, "diagnosis", "train", modalities=["image"], augment=False)
            rows = np.arange(BATCH)
            stored = images.raw_batch(rows).images
    compare("images, stored (256, 256) uint8", lambda: images.raw_batch(rows), stored.clone, rounds)
    out = normalise(warp(stored, draw_affine(BATCH)))
    index = torch.arange(BATCH)
    compare("images, centre crop + normalise", lambda: model_images(stored, index, BATCH, augment=False), out.clone, 5)
    compare("images, augmentation + normalise", lambda: model_images(stored, index, BATCH, augment=True), out.clone, 5)


if __name__ == "__main__":
    main()
