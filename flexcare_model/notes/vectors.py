"""The reader of stored note vectors. It needs no model and no torch.

In: the folder `data/notes/` of an output folder. Out: where the tokens of a note's section are, and their vectors.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flexcare_data.modalities import MAX_NOTE_TOKENS
from flexcare_data.schema import REPORT
from flexcare_data.store.pools import read_pool
from flexcare_data.store.shards import Kinds, ShardedRows, ShardError, check_inside, look_up, read_output_table
from flexcare_model.notes.storage import STORAGES, dequantize

_SCALES: Kinds = {"<f2": ()}


class NoteVectors:
    """Reads the vectors of notes from a ``data/notes`` folder or a folder of the stage `notes`, opened when first used.

    Tokens are numbered over all shards in their order, from 0.

    Attributes:
        storage: float16, int8 (with one scale per token) or tokens (word-piece ids).
        width: length of a token's vector.
        max_tokens: most tokens of a text.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        spec = read_pool(self.folder / "shards")
        self.storage, self.width = spec["storage"], spec["width"]
        self.max_tokens: int = spec.get("max_tokens", MAX_NOTE_TOKENS)
        if self.storage not in STORAGES:
            raise ShardError(f"{self.folder}: expected a storage of {list(STORAGES)}, got another one; rebuild it")

    def __reduce__(self) -> tuple[Any, ...]:
        return NoteVectors, (self.folder,)  # memory maps are opened again in a worker process

    @cached_property
    def _index(self) -> pl.DataFrame:
        return read_output_table(self.folder / "index.parquet").with_columns(pl.col("section").cast(pl.String))

    def part(self, section: str) -> str:
        """What the notes of a cohort are here: radiology reports, or this section of discharge summaries.

        One build has reports or sections, not both.
        """
        return REPORT if (self._index["section"] == REPORT).any() else section

    @cached_property
    def rows(self) -> ShardedRows:
        """The tokens: vectors (width,), or ids."""
        kinds: Kinds = {np.dtype(STORAGES[self.storage]).str: () if self.storage == "tokens" else (self.width,)}
        shards = self._index["shard"].unique().sort()
        return ShardedRows(self.folder / "shards", [f"{stem}.npy" for stem in shards], kinds)

    @cached_property
    def scales(self) -> ShardedRows | None:
        """The scale of each token, for int8."""
        if self.storage != "int8":
            return None
        names = [f"{name.removesuffix('.npy')}.scale.npy" for name in self.rows.names]
        return ShardedRows(self.folder / "shards", names, _SCALES)

    def locate(self, ids: pl.DataFrame) -> np.ndarray:
        """First token and number of tokens of each of ``ids`` (note_id, section), int64 (n, 2); zeros for a null.

        Raises:
            ShardError: if the index lacks one of them or points outside its shard.
        """
        path = self.folder / "index.parquet"
        found = look_up(path, ids.select("note_id", "section"), ["note_id", "section"])
        first, length = self.rows.spans(found["shard"] + ".npy")
        check_inside(path, found["n_tokens"], length)
        check_inside(path, found["offset"], length - found["n_tokens"])
        places = [(first + found["offset"]).fill_null(0), found["n_tokens"].fill_null(0)]
        return np.stack([place.to_numpy().astype(np.int64) for place in places], axis=1)

    @cached_property
    def places(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(note_id, section) -> (first token, tokens)."""
        ids = self._index.select("note_id", "section")
        return dict(zip(ids.iter_rows(), map(tuple, self.locate(ids).tolist()), strict=True))

    def read(self, first: int, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        """``n`` tokens from ``first`` on, without a copy: vectors (n, width) or ids (n,), and for int8 the scales."""
        return self.rows.read(first, n), None if self.scales is None else self.scales.read(first, n)

    def stored(self, note_id: str, section: str) -> tuple[np.ndarray, np.ndarray | None]:
        """The result of `read` for one section of one note."""
        try:
            return self.read(*self.places[note_id, section])
        except KeyError:
            raise KeyError(f"{self.folder}: this section of this note is in no cohort and was not embedded") from None

    def vectors(self, note_id: str, section: str) -> np.ndarray:
        """Token vectors (n, width): float16 as stored (a mapped slice), or float32 made of int8.

        Raises:
            ValueError: where only word-piece ids are stored (`stored` has them).
        """
        vectors, scale = self.stored(note_id, section)
        if self.storage == "tokens":
            raise ValueError(f"{self.folder}: holds word-piece ids, expected vectors (notes.storage)")
        return vectors if scale is None else dequantize(vectors, scale)
