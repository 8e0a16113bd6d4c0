"""How many tokens per second are embedded, against random order in batches of 16 as a training loop would do.

Run: python tests/bench/bench_embed.py [--notes 40] [--rounds 2] [--layers 12]. An encoder of BERT-base's size with
random weights, notes with lengths as in MIMIC (mean about 110, at most 512), both ways interleaved on the same threads.
Goal: at least 1.35 on a CPU. Also printed: the error of int8 storage. ``--device cuda`` measures on a GPU (both in
bfloat16).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from flexcare_data.modalities import NOTE_WIDTH
from flexcare_model.notes.batching import CPU_BATCH_TOKENS, batches, computing
from flexcare_model.notes.encoder import Encoder
from flexcare_model.notes.storage import dequantize, quantize


def encoder_of(layers: int) -> Encoder:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return Encoder(None, BertModel(BertConfig(vocab_size=28996, num_hidden_layers=layers)).eval(), "random")


def notes(n: int) -> list[np.ndarray]:
    """Word pieces of ``n`` notes; a long right tail, cut at 512."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(4.5, 0.65, n).astype(int).clip(4, 512)
    return [rng.integers(1000, 28000, length).astype(np.int32) for length in lengths]


def random_order(encoder: Encoder, pieces: list[np.ndarray], device: torch.device) -> None:
    order = np.random.default_rng(1).permutation(len(pieces))
    for start in range(0, len(order), 16):
        batch = [pieces[i] for i in order[start : start + 16]]
        lengths = torch.tensor([len(ids) for ids in batch])
        ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.int64)
        for row, piece in zip(ids, batch, strict=True):
            row[: len(piece)] = torch.from_numpy(piece)
        encoder.vectors(ids.to(device), lengths.to(device)).half().cpu()


def ours(encoder: Encoder, pieces: list[np.ndarray], device: torch.device, threads: int, budget: int) -> np.ndarray:
    """The inner loop of the build: sorted, batched by padded tokens, stored as float16."""
    pieces = sorted(pieces, key=len)
    lengths = np.array([len(ids) for ids in pieces])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    vectors = np.empty((int(offsets[-1]), NOTE_WIDTH), np.float16)
    jobs = [(int(offsets[a]), pieces[a:b]) for a, b in batches(lengths, budget)]
    with computing(encoder, device, threads) as compute:
        for start, part in compute(jobs):
            vectors[start : start + len(part)] = part
    return vectors


def seconds(action) -> tuple[tuple[float, float], np.ndarray | None]:
    """Wall and CPU seconds of ``action``, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    return (time.perf_counter() - wall, time.process_time() - cpu), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    encoder, pieces = encoder_of(args.layers).to(device), notes(args.notes)
    tokens = sum(len(ids) for ids in pieces)
    budget = CPU_BATCH_TOKENS if device.type == "cpu" else 8192
    random_order(encoder, pieces[:16], device)
    ours(encoder, pieces[:16], device, args.threads, budget)
    wall, cpu = [], []
    for _ in range(args.rounds):
        (slow, slow_cpu), _ = seconds(lambda: random_order(encoder, pieces, device))
        (fast, fast_cpu), vectors = seconds(lambda: ours(encoder, pieces, device, args.threads, budget))
        wall.append(slow / fast)
        cpu.append(slow_cpu / fast_cpu)
        print(f"{tokens} tokens: random {tokens / slow:,.0f}/s, sorted {tokens / fast:,.0f}/s")
    print(
        f"ratio {np.median(wall):.2f} wall, {np.median(cpu):.2f} CPU time (median of {args.rounds}); "
        f"{args.layers} layers, {args.threads} threads, {device}"
    )
    exact = vectors.astype(np.float32)
    error = dequantize(*quantize(exact)) - exact
    print(
        f"int8: relative error {np.linalg.norm(error) / np.linalg.norm(exact):.4f}, largest {np.abs(error).max():.4f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, vectors)
        print(f"stored: {path.stat().st_size / tokens:,.0f} bytes per token")


if __name__ == "__main__":
    main()
