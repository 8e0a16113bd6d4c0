"""Batches of word pieces to token vectors, and their form on disk.

In: word-piece ids of several texts, an `Encoder`. Out: vectors in the stored form. On a CPU each batch is computed by
one thread, several batches at once, so the bytes do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from flexcare_model.notes.encoder import Encoder, EncoderError
from flexcare_model.notes.storage import STORAGES, quantize

CPU_BATCH_TOKENS = 2048
"""Padded tokens per batch on a CPU, at most."""


def batches(lengths: np.ndarray, budget: int) -> list[tuple[int, int]]:
    """[first, last) of batches of at most ``budget`` padded tokens; ``lengths`` ascend, empty texts are skipped."""
    first = int(np.searchsorted(lengths, 1))
    batches = []
    for i in range(first, len(lengths) + 1):
        if i == len(lengths) or (i > first and lengths[i] * (i - first + 1) > budget):
            if i > first:
                batches.append((first, i))
            first = i
    return batches


def empty_arrays(storage: str, tokens: int, width: int) -> dict[str, np.ndarray]:
    arrays = {"": np.empty((tokens, width), dtype=STORAGES[storage])}
    return arrays | {"scale": np.empty(tokens, dtype=np.float16)} if storage == "int8" else arrays


def put(arrays: dict[str, np.ndarray], start: int, vectors: np.ndarray) -> None:
    """Store ``vectors`` (n, width) float32 from row ``start`` on."""
    if not np.isfinite(vectors).all() or np.abs(vectors).max() > np.finfo(np.float16).max:
        raise EncoderError(
            "the encoder returned values that are not finite in float16; expected values within 65,504. "
            "Check its weights"
        )
    place = slice(start, start + len(vectors))
    if "scale" in arrays:
        arrays[""][place], arrays["scale"][place] = quantize(vectors)
    else:
        arrays[""][place] = vectors


@contextmanager
def computing(encoder: Encoder, device: torch.device, threads: int | None) -> Iterator[Any]:
    """A function from (start, ids of a batch) to (start, vectors of all its tokens), in any order."""

    def compute(job: tuple[int, list[np.ndarray]]) -> tuple[int, np.ndarray]:
        start, batch = job
        lengths = torch.tensor([len(ids) for ids in batch])
        ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.int64)
        for row, pieces in zip(ids, batch, strict=True):
            row[: len(pieces)] = torch.from_numpy(pieces)
        inside = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
        try:
            hidden = encoder.vectors(ids.to(device), lengths.to(device))  # (B, N, width)
            return start, hidden[inside.to(device)].cpu().numpy()
        except torch.OutOfMemoryError:
            raise EncoderError("not enough memory on the GPU; set notes.batch_tokens lower") from None

    if device.type == "cuda":
        yield lambda jobs: map(compute, jobs)
        return
    before = torch.get_num_threads()
    # One thread per batch: the order of summation then does not depend on the number of cores.
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads or _cores()) as executor:

            def run(jobs: Sequence[tuple[int, list[np.ndarray]]]) -> Iterator[tuple[int, np.ndarray]]:
                futures = [executor.submit(compute, job) for job in jobs]
                try:
                    for future in as_completed(futures):
                        yield future.result()
                finally:
                    for future in futures:
                        future.cancel()

            yield run
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
