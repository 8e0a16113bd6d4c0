"""Note texts to token vectors, each distinct text once for the lab.

In: SECTIONS, the (note_id, section) pairs that cohorts use, an encoder. Out: a pool of vectors that grows by the texts
it lacks, keyed by encoder and settings; the stage `notes`: index.parquet (NOTES_INDEX), counts.json, a link `shards`
to the pool.

Texts are sorted by length and embedded in batches of a fixed number of padded tokens. A part of the pool is written
whenever 262,144 tokens are done, so a killed run loses no more than that. On a CPU each batch is computed by one
thread, several batches at once: the bytes do not depend on the number of threads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from flexcare_data.schema import NOTES_INDEX, check
from flexcare_data.shares import ALL, Share
from flexcare_data.store.folders import is_complete, spec_key, write_stage
from flexcare_data.store.pools import Pool
from flexcare_data.tasks import TASKS
from flexcare_model.notes.encoder import (
    WIDTH,
    Encoder,
    EncoderError,
    encoder_digest,
    find_encoder,
    load_encoder,
    make_tiny_encoder,
)
from flexcare_model.notes.vectors import quantize

PART_TOKENS = 2**18
"""Tokens per part: 403 MB in float16. Fixed, as it decides the bytes of a build."""
TINY = "tiny"
"""Name of the encoder that is made of the texts themselves."""

_CPU_BATCH_TOKENS = 2048
_SECTION = NOTES_INDEX.columns[1].dtype
_STORED = {"float16": np.float16, "int8": np.int8, "tokens": np.int32}


def wanted_notes(cohorts: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The (note_id, section) pairs that cohorts (task -> COHORT) point at, unique and sorted."""
    pairs = [
        cohort.select("note_id", section=pl.lit(TASKS[task].section, dtype=_SECTION)).drop_nulls("note_id")
        for task, cohort in cohorts.items()
    ]
    return pl.concat(pairs).unique().sort("note_id", "section")


def build(
    sections: pl.LazyFrame,
    wanted: pl.DataFrame,
    encoder: str,
    *,
    out_dir: Path,
    spec: dict[str, Any],
    storage: str = "float16",
    max_tokens: int = 512,
    batch_tokens: int = 8192,
    device: str = "auto",
    threads: int | None = None,
    share: Share | None = None,
    group_readable: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Embed what the pool lacks of ``wanted`` and write the stage ``out_dir`` that points into the pool beside it.

    With ``share`` only that share of the parts is added to the pool, and no stage is written. Several shares may be
    embedded at once, on several machines; the stage then finds all of them done.

    Args:
        sections: SECTIONS.
        wanted: note_id, section.
        encoder: local folder, hub name, or `TINY` (made of these texts, kept in the store).
        spec: spec of the stage.
        storage: float16; int8 with one float16 scale per token; tokens (word-piece ids only).
        max_tokens: word pieces kept of a text.
        batch_tokens: padded tokens per batch; on a CPU at most 2048.
        device: auto (CUDA where there is one), cpu, cuda.
        threads: on a CPU, batches at once; None: the cores this process may use.
        share: one of several shares of the work, for a job of its own.
        progress: called with tokens done and to do.

    Returns:
        Counts as in counts.json: notes (pairs), texts, tokens, texts_without_tokens; with ``share`` what the pool holds
        of ``wanted`` by now, other shares included.

    Raises:
        EncoderError: see `load_encoder`; also without the CUDA asked for, or with too little of its memory.
        ValueError: if a wanted section is missing in ``sections``.
    """
    if storage not in _STORED:
        raise ValueError(f"notes.storage: expected one of {sorted(_STORED)}, got {storage!r}")
    store = Path(out_dir).parent
    notes = _texts(sections, wanted)
    texts = notes.unique("text_key").select("text_key", "text").sort("text_key")
    folder = _tiny(store, texts, group_readable) if encoder == TINY else find_encoder(encoder)
    settings = pool_spec(encoder_digest(folder), storage=storage, max_tokens=max_tokens)
    pool = Pool(store / f"vectors-{spec_key(settings)}", key="text_key", spec=settings, group_readable=group_readable)
    todo = set(texts.join(_known(pool), on="text_key", how="anti")["text_key"])
    if todo:
        pool.prepare()
        work = _Work(batch_tokens, _device(device), threads, share or ALL)
        _grow(pool, texts, todo, load_encoder(str(folder)), work, progress)
    index = (
        notes.join(_known(pool), on="text_key", how="inner", validate="m:1")
        .select("note_id", "section", "text_key", "shard", "offset", "n_tokens")
        .sort("note_id", "section")
    )
    distinct = index.unique("text_key")
    counts = {
        "notes": index.height,
        "texts": distinct.height,
        "tokens": int(distinct["n_tokens"].sum()),
        "texts_without_tokens": distinct.filter(pl.col("n_tokens") == 0).height,
    }
    if share is not None:
        return counts
    with write_stage(out_dir, spec=spec, group_readable=group_readable) as building:
        check(index, NOTES_INDEX).write_parquet(building / "index.parquet")
        (building / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        (building / "shards").symlink_to(f"../{pool.folder.name}")
        if encoder == TINY:
            (building / "encoder").symlink_to(f"../{folder.name}")
    return counts


def pool_spec(digest: str, *, storage: str, max_tokens: int) -> dict[str, Any]:
    """What decides the vectors of a text: the key of the pool. Batch size and device change them by rounding only."""
    return {
        "pool": "notes",
        "encoder": digest,
        "width": WIDTH,
        "storage": storage,
        "max_tokens": max_tokens,
        "special_tokens": False,
        "part_tokens": PART_TOKENS,
        "revision": 1,
    }


def text_key(text: str) -> str:
    """Key of a text: 32 hex digits of the sha256 of its UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


# --- embedding --------------------------------------------------------------------------------------------------


def _texts(sections: pl.LazyFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """note_id, section, text, text_key of the wanted pairs."""
    frames = []
    for section in _SECTION.categories.to_list():
        pairs = wanted.filter(pl.col("section").cast(pl.String) == section).select("note_id").unique()
        frames.append(
            sections.select("note_id", text=pl.col(section))
            .drop_nulls("text")
            .join(pairs.lazy(), on="note_id", how="semi")
            .select("note_id", pl.lit(section, dtype=_SECTION).alias("section"), "text")
            .collect(engine="streaming")
        )
    notes = pl.concat(frames)
    expected = wanted.select("note_id", pl.col("section").cast(pl.String)).unique().height
    if notes.height != expected:
        raise ValueError(f"notes: {expected} sections are wanted, {notes.height} of them are in the sections table")
    return notes.with_columns(text_key=pl.Series([text_key(text) for text in notes["text"]], dtype=pl.String))


def _known(pool: Pool) -> pl.DataFrame:
    """text_key, shard, offset, n_tokens of the texts in the pool."""
    columns = {"text_key": pl.String, "shard": pl.String, "offset": pl.Int64, "n_tokens": pl.Int64}
    return pool.lookup().select(*columns) if pool.parts() else pl.DataFrame(schema=columns)


def _tiny(store: Path, texts: pl.DataFrame, group_readable: bool) -> Path:
    """The folder of the small encoder with the vocabulary of ``texts``, made where the store lacks it."""
    spec = {"stage": "encoder", "texts": spec_key(texts["text_key"].to_list()), "seed": 0, "revision": 1}
    target = store / f"encoder-{spec_key(spec)}"
    if not is_complete(target):
        with write_stage(target, spec=spec, group_readable=group_readable) as building:
            make_tiny_encoder(building, texts["text"])
    return target


@dataclass(frozen=True)
class _Work:
    """How the work is done, and which share of it."""

    batch_tokens: int
    device: torch.device
    threads: int | None
    share: Share


def _grow(
    pool: Pool,
    texts: pl.DataFrame,
    todo: set[str],
    encoder: Encoder,
    work: _Work,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Add to the pool the texts whose keys are in ``todo``. Which go into one part together is decided over all."""
    device, storage, max_tokens = work.device, pool.spec["storage"], pool.spec["max_tokens"]
    if max_tokens > encoder.longest:
        raise EncoderError(f"notes.max_tokens: expected at most {encoder.longest} for this encoder, got {max_tokens}")
    pieces = encoder.pieces(texts["text"].to_list(), max_tokens)
    keys = texts["text_key"].to_list()
    order = sorted(range(len(keys)), key=lambda i: (len(pieces[i]), keys[i]))
    shared = work.share.of(list(_parts(order, [len(ids) for ids in pieces])))
    parts = [lacking for part in shared if (lacking := [i for i in part if keys[i] in todo])]
    total, done = sum(len(pieces[i]) for part in parts for i in part), 0
    if storage != "tokens":
        encoder.to(device)
    budget = min(work.batch_tokens, _CPU_BATCH_TOKENS) if device.type == "cpu" else work.batch_tokens
    with _computing(encoder, device, work.threads) as compute:
        for part in parts:
            lengths = np.array([len(pieces[i]) for i in part])
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            tokens = int(offsets[-1])
            if storage == "tokens":
                arrays = {"": np.concatenate([pieces[i] for i in part])}
                done = _report(progress, done, tokens, total)
            else:
                arrays = _empty_arrays(storage, tokens)
                batches = [part[a:b] for a, b in _batches(lengths, budget)]
                starts = [int(offsets[a]) for a, _ in _batches(lengths, budget)]
                jobs = [(start, [pieces[i] for i in batch]) for start, batch in zip(starts, batches, strict=True)]
                for start, vectors in compute(jobs):
                    _put(arrays, start, vectors)
                    done = _report(progress, done, len(vectors), total)
            index = pl.DataFrame(
                {
                    "text_key": [keys[i] for i in part],
                    "offset": offsets[:-1],
                    "n_tokens": lengths,
                    "precision": "bfloat16" if device.type == "cuda" and storage != "tokens" else "float32",
                },
                schema_overrides={"offset": pl.Int64, "n_tokens": pl.Int64},
            )
            pool.add(index, arrays)


def _parts(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive texts of at most `PART_TOKENS` tokens and 65,536 texts."""
    part: list[int] = []
    tokens = 0
    for i in order:
        if part and (tokens + lengths[i] > PART_TOKENS or len(part) == 2**16):
            yield part
            part, tokens = [], 0
        part.append(i)
        tokens += lengths[i]
    if part:
        yield part


def _batches(lengths: np.ndarray, budget: int) -> list[tuple[int, int]]:
    """[first, last) of batches of at most ``budget`` padded tokens; ``lengths`` ascend, empty texts are skipped."""
    first = int(np.searchsorted(lengths, 1))
    batches = []
    for i in range(first, len(lengths) + 1):
        if i == len(lengths) or (i > first and lengths[i] * (i - first + 1) > budget):
            if i > first:
                batches.append((first, i))
            first = i
    return batches


def _empty_arrays(storage: str, tokens: int) -> dict[str, np.ndarray]:
    arrays = {"": np.empty((tokens, WIDTH), dtype=_STORED[storage])}
    return arrays | {"scale": np.empty(tokens, dtype=np.float16)} if storage == "int8" else arrays


def _put(arrays: dict[str, np.ndarray], start: int, vectors: np.ndarray) -> None:
    """Store ``vectors`` (n, width) float32 from row ``start`` on."""
    if not np.isfinite(vectors).all() or np.abs(vectors).max() > np.finfo(np.float16).max:
        raise EncoderError("the encoder gave vectors that float16 cannot hold; are its weights what they should be?")
    place = slice(start, start + len(vectors))
    if "scale" in arrays:
        arrays[""][place], arrays["scale"][place] = quantize(vectors)
    else:
        arrays[""][place] = vectors


def _report(progress: Callable[[int, int], None] | None, done: int, more: int, total: int) -> int:
    if progress is not None:
        progress(done + more, total)
    return done + more


@contextmanager
def _computing(encoder: Encoder, device: torch.device, threads: int | None) -> Iterator[Any]:
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
    # One thread per batch: sums are then taken in the same order however many cores there are.
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


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise EncoderError("notes.device: cuda is not available here; expected auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
