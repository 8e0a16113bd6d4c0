"""Note texts to token vectors; each distinct text is embedded once per store.

In: SECTIONS or REPORTS, the (note_id, section) pairs that cohorts use, an encoder. Out: a pool of vectors, keyed by
encoder and settings, to which missing texts are added; the stage `notes`: index.parquet (NOTES_INDEX), counts.json, a
link `shards` to the pool.

Texts are sorted by length and embedded in batches of a fixed number of padded tokens. A part of the pool is written
after every 262,144 tokens, so a killed run loses at most that many. On a CPU each batch is computed by one
thread, several batches at once: the bytes do not depend on the number of threads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch

from flexcare_data import note_ids
from flexcare_data.code_digest import code_digest
from flexcare_data.encoder_files import encoder_files
from flexcare_data.hashing import file_digest, spec_key
from flexcare_data.job_part import WHOLE, JobPart
from flexcare_data.modalities import MAX_NOTE_TOKENS
from flexcare_data.progress import meter
from flexcare_data.schema import NOTES_INDEX, REPORT, check
from flexcare_data.stages.work import AGAIN, ChangedError, StageWork
from flexcare_data.store.folders import write_stage
from flexcare_data.store.pools import Pool
from flexcare_data.tasks import TASKS
from flexcare_model.notes.batching import CPU_BATCH_TOKENS, batches, computing, empty_arrays, put
from flexcare_model.notes.encoder import (
    Encoder,
    EncoderError,
    encoder_digest,
    encoder_width,
    find_encoder,
)
from flexcare_model.notes.loading import load_into_memory
from flexcare_model.notes.storage import STORAGES
from flexcare_model.notes.texts import reads_reports, texts_of

PART_TOKENS = 2**18
"""Tokens per part: 403 MB in float16. Fixed, as it decides the bytes of a build."""
_SECTION = cast("pl.Enum", NOTES_INDEX.columns[1].dtype)


def wanted_notes(cohorts: Mapping[str, pl.DataFrame], *, of_reports: bool = False) -> pl.DataFrame:
    """The (note_id, section) pairs that cohorts (task -> COHORT) point at, unique and sorted.

    ``of_reports``: the notes are radiology reports, not sections of discharge summaries.
    """
    pairs = [
        cohort.select(
            note_ids.split("note_id"), section=pl.lit(REPORT if of_reports else TASKS[task].section, dtype=_SECTION)
        )
        .drop_nulls("note_id")
        .explode("note_id")
        for task, cohort in cohorts.items()
    ]
    return pl.concat(pairs).unique().sort("note_id", "section")


def build(
    sections: pl.LazyFrame,
    wanted: pl.DataFrame,
    encoder: Path | str,
    *,
    out_dir: Path,
    spec: dict[str, Any],
    storage: str = "float16",
    max_tokens: int = MAX_NOTE_TOKENS,
    batch_tokens: int = 8192,
    device: str = "auto",
    threads: int | None = None,
    part: JobPart | None = None,
    group_readable: bool = True,
    verify: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Embed the texts of ``wanted`` that the pool lacks; write the stage ``out_dir``, which links to the pool.

    With ``part`` only that part of the work is done, and no stage is written. Several jobs, on several machines, may
    do one part each at the same time; the stage then finds all texts in the pool.

    Args:
        sections: note_id and a column of texts for each section of ``wanted``, such as SECTIONS.
        wanted: note_id, section.
        encoder: local folder or hub name.
        spec: spec of the stage.
        storage: float16; int8 with one float16 scale per token; tokens (word-piece ids only).
        max_tokens: word pieces kept of a text.
        batch_tokens: padded tokens per batch; on a CPU at most 2048.
        device: auto (CUDA where there is one), cpu, cuda.
        threads: on a CPU, batches in parallel; None: the cores this process may use.
        part: one of several parts of the work, done by one job; None: all of it, and the stage.
        verify: called before the stage is sealed, see `write_stage`.
        progress: called with tokens done and to do.

    Returns:
        Counts as in counts.json: notes (pairs), texts, tokens, texts_without_tokens; with ``part``, the texts of
        ``wanted`` that the pool holds now, those of other jobs included.

    Raises:
        ChangedError: if the encoder changed between its digest and its loading.
        EncoderError: see `load_encoder`; also if CUDA is requested and absent, or has too little memory.
        ValueError: if a wanted section is missing in ``sections``.
    """
    if storage not in STORAGES:
        raise ValueError(f"notes.storage: expected one of {sorted(STORAGES)}, got {storage!r}")
    store = Path(out_dir).parent
    notes = _texts(sections, wanted)
    texts = notes.unique("text_key").select("text_key", "text").sort("text_key")
    folder = find_encoder(str(encoder))
    settings = pool_spec(encoder_digest(folder), encoder_width(folder), storage=storage, max_tokens=max_tokens)
    pool = Pool(store / f"vectors-{spec_key(settings)}", key="text_key", spec=settings, group_readable=group_readable)
    todo = set(texts.join(_known(pool), on="text_key", how="anti")["text_key"])
    if todo:
        pool.prepare()
        work = _Work(batch_tokens, _device(device), threads, part or WHOLE)
        loaded = load_into_memory(str(folder))
        if loaded.digest != pool.spec["encoder"]:  # otherwise the pool would keep vectors of two encoders
            raise ChangedError(f"{folder}: has changed since this job started; {AGAIN}")
        _grow(pool, texts, todo, loaded, work, progress)
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
    if part is not None:
        return counts
    with write_stage(out_dir, spec=spec, group_readable=group_readable, verify=verify) as building:
        check(index, NOTES_INDEX).write_parquet(building / "index.parquet")
        (building / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        (building / "shards").symlink_to(f"../{pool.folder.name}")
        if folder.parent == store:  # prepared by the stage `encoder`; needed again where only token ids are stored
            (building / "encoder").symlink_to(f"../{folder.name}")
    return counts


def pool_spec(digest: str, width: int, *, storage: str, max_tokens: int) -> dict[str, Any]:
    """Settings that decide the vectors of a text: the key of the pool. Batch size and device change rounding only.

    ``digest`` and ``width`` are of the encoder.
    """
    return {
        "pool": "notes",
        "encoder": digest,
        "width": width,
        "storage": storage,
        "max_tokens": max_tokens,
        "special_tokens": False,
        "part_tokens": PART_TOKENS,
        "code": code_digest("flexcare_model.notes.encoder", "flexcare_model.notes.batching"),
        "libraries": {name: version(name) for name in ("numpy", "tokenizers", "torch", "transformers")},
    }


def text_key(text: str) -> str:
    """Key of a text: 32 hex digits of the sha256 of its UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


# --- embedding --------------------------------------------------------------------------------------------------


def _texts(sections: pl.LazyFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """note_id, section, text, text_key of the wanted pairs."""
    frames = []
    there = sections.collect_schema().names()
    for section in _SECTION.categories.to_list():
        if section not in there:
            continue
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


@dataclass(frozen=True)
class _Work:
    """Settings of the computation, and the part of the work."""

    batch_tokens: int
    device: torch.device
    threads: int | None
    part: JobPart


def _grow(
    pool: Pool,
    texts: pl.DataFrame,
    todo: set[str],
    encoder: Encoder,
    work: _Work,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Add the texts whose keys are in ``todo`` to the pool. All texts are grouped into parts before one is computed."""
    device, storage, max_tokens = work.device, pool.spec["storage"], pool.spec["max_tokens"]
    if max_tokens > encoder.longest:
        raise EncoderError(f"notes.max_tokens: expected at most {encoder.longest} for this encoder, got {max_tokens}")
    pieces = encoder.pieces(texts["text"].to_list(), max_tokens)
    keys = texts["text_key"].to_list()
    order = sorted(range(len(keys)), key=lambda i: (len(pieces[i]), keys[i]))
    chosen = work.part.of(list(_parts(order, [len(ids) for ids in pieces])))
    parts = [lacking for part in chosen if (lacking := [i for i in part if keys[i] in todo])]
    total, done = sum(len(pieces[i]) for part in parts for i in part), 0
    if storage != "tokens":
        encoder.to(device)
    budget = min(work.batch_tokens, CPU_BATCH_TOKENS) if device.type == "cpu" else work.batch_tokens
    with computing(encoder, device, work.threads) as compute:
        for part in parts:
            lengths = np.array([len(pieces[i]) for i in part])
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            tokens = int(offsets[-1])
            if storage == "tokens":
                arrays = {"": np.concatenate([pieces[i] for i in part])}
                done = _report(progress, done, tokens, total)
            else:
                arrays = empty_arrays(storage, tokens, encoder.width)
                jobs = [(int(offsets[a]), [pieces[i] for i in part[a:b]]) for a, b in batches(lengths, budget)]
                for start, vectors in compute(jobs):
                    put(arrays, start, vectors)
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
            pool.add(index, dict(arrays))


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


def _report(progress: Callable[[int, int], None] | None, done: int, more: int, total: int) -> int:
    if progress is not None:
        progress(done + more, total)
    return done + more


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise EncoderError("notes.device: expected auto or cpu, as no CUDA device was found; got cuda")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _check_encoder(work: StageWork) -> None:
    """Raise ChangedError unless the encoder is that of the spec. One that is no local folder is an upstream stage."""
    planned = work.spec.get("settings", {}).get("encoder")
    if planned is None:
        return
    folder = Path(work.settings["encoder"]).expanduser()
    if not folder.is_dir() or encoder_files(folder, file_digest) != planned:
        raise ChangedError(f"{folder}: has changed since this build was planned; {AGAIN}")


def run(work: StageWork) -> None:
    """Run the stage `notes`; with the setting ``part``, fill only one of several parts of the pool."""

    def unchanged() -> None:
        work.check_unchanged()
        _check_encoder(work)

    _check_encoder(work)
    settings = work.settings
    cohorts = {task: pl.read_parquet(folder / f"{task}.parquet") for task, folder in work.cohorts().items()}
    build(
        texts_of(work.upstream),
        wanted_notes(cohorts, of_reports=reads_reports(work.upstream)),
        work.upstream.get("encoder") or settings["encoder"],
        out_dir=work.out,
        spec=dict(work.spec),
        storage=settings["storage"],
        max_tokens=settings["max_tokens"],
        batch_tokens=settings["batch_tokens"],
        device=settings["device"],
        threads=work.threads,
        part=settings.get("part"),
        group_readable=work.group_readable,
        verify=unchanged,
        progress=meter("tokens"),
    )
