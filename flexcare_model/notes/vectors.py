"""Note vectors as they are stored, and a reader of them that needs no model.

In: the folder `data/notes/` of an output folder. Out: the vectors of one section of one note.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from flexcare_data.store.pools import Pool, read_pool


def quantize(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, width) as int8 and one float16 scale per row, so that ``int8 * scale`` is near them."""
    scale = (np.abs(vectors).max(axis=1, initial=0.0) / 127).astype(np.float16)
    divisor = np.where(scale == 0, 1, scale).astype(np.float32)[:, None]
    # The scale was rounded to float16, so that the largest value may come out as 127.06.
    return np.rint(vectors / divisor).clip(-127, 127).astype(np.int8), scale


def dequantize(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 vectors of what `quantize` made."""
    return vectors.astype(np.float32) * scale.astype(np.float32)[:, None]


class NoteVectors:
    """Reads the vectors of notes from a ``data/notes`` folder (or the stage it shows)."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        spec = read_pool(self.folder / "shards")
        self.storage, self.width = spec["storage"], spec["width"]
        self._pool = Pool(self.folder / "shards", key="text_key")
        self._arrays: dict[tuple[str, str], np.ndarray] = {}

    @cached_property
    def places(self) -> dict[tuple[str, str], tuple[str, int, int]]:
        """(note_id, section) -> (shard, first token, tokens)."""
        index = pl.read_parquet(self.folder / "index.parquet").with_columns(pl.col("section").cast(pl.String))
        keys = index.select("note_id", "section").iter_rows()
        return dict(zip(keys, index.select("shard", "offset", "n_tokens").iter_rows(), strict=True))

    def stored(self, note_id: str, section: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Slices of the mapped shards, without a copy: vectors (n, width) or ids (n,), and for int8 the scales (n,)."""
        try:
            shard, offset, n_tokens = self.places[note_id, section]
        except KeyError:
            raise KeyError(f"{self.folder}: this section of this note is in no cohort and was not embedded") from None
        place = slice(offset, offset + n_tokens)
        scale = self._array(shard, "scale")[place] if self.storage == "int8" else None
        return self._array(shard, "")[place], scale

    def vectors(self, note_id: str, section: str) -> np.ndarray:
        """Token vectors (n, width): float16 as stored (a mapped slice), or float32 made of int8.

        Raises:
            ValueError: where only word-piece ids are stored (`stored` has them).
        """
        vectors, scale = self.stored(note_id, section)
        if self.storage == "tokens":
            raise ValueError(f"{self.folder}: holds word-piece ids, expected vectors (notes.storage)")
        return vectors if scale is None else dequantize(vectors, scale)

    def _array(self, shard: str, name: str) -> np.ndarray:
        if (shard, name) not in self._arrays:
            self._arrays[shard, name] = self._pool.array(shard, name)
        return self._arrays[shard, name]
