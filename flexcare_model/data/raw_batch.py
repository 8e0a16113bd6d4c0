"""A batch in its stored form, which is small to copy; it is transformed on the device.

In: rows of the shards, as `TaskDataset.raw_batch` gathers them. Out: a `Batch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flexcare_data.modalities import NOTE_WIDTH
from flexcare_model.data.batch import Batch
from flexcare_model.data.image_transforms import model_images
from flexcare_model.data.index import SampleError
from flexcare_model.notes.batching import batches
from flexcare_model.notes.storage import dequantize

Embedder = Callable[[Tensor, Tensor], Tensor]
"""Word-piece ids (b, n) of texts and lengths (b,) to their vectors (b, n, width): the encoder, for shards of ids."""
EMBEDDED_TOKENS = 2**15
"""Padded word pieces that are embedded at a time, unless one text has more."""


@dataclass(frozen=True)
class RawBatch:
    """A batch in its stored form; `finish` makes it a `Batch` on a device. B samples, n of them with an image."""

    series: Tensor  # (B, T, 76) float32
    images: Tensor  # (n, 256, 256) uint8
    image_rows: Tensor  # (n,) int64, ascending: sample of each image
    tokens: Tensor  # (B, N, width) float16, float32 or int8; (B, M) int32 word-piece ids of whole texts
    token_scale: Tensor | None  # (B, N) float16, for int8
    texts: Tensor | None  # (B, K, 2) int64 on the CPU, for ids: tokens of each text that are kept, and all of them
    lengths: Tensor  # (B, 3) int64: hours, patches, tokens; on the CPU, 0 where absent
    present: Tensor  # (B, 3) bool, on the CPU
    label: Tensor  # (B,) or (B, labels)
    task: int

    def finish(
        self,
        device: torch.device | str = "cpu",
        *,
        augment: bool = False,
        generator: torch.Generator | None = None,
        embedder: Embedder | None = None,
        note_width: int = NOTE_WIDTH,
    ) -> Batch:
        """Move to ``device``; transform the images and convert the note vectors to float32 there.

        The result is checked (`Batch.check`): all ways to load a batch end here.

        Args:
            device: where the batch goes.
            augment: random flip and affine map of the images.
            generator: random numbers of the augmentation (CPU); None: torch's global generator.
            embedder: needed where the notes are stored as word-piece ids.
            note_width: width of the vectors of a batch without any token.
        """

        def send(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        lengths, tokens = send(self.lengths), send(self.tokens)
        if tokens.ndim == 2 and tokens.shape[1] and embedder is None:
            raise SampleError("the notes are stored as word-piece ids: expected the encoder as `embedder`, got none")
        if tokens.ndim == 2:
            notes = torch.zeros(len(tokens), 0, note_width, device=tokens.device)
            if tokens.shape[1] and embedder is not None and self.texts is not None:
                notes = embed_texts(tokens, self.texts.numpy(), embedder)
        elif self.token_scale is not None:
            notes = dequantize(tokens, send(self.token_scale), torch)
        else:
            notes = tokens
        images = model_images(
            send(self.images), send(self.image_rows), len(self.present), augment=augment, generator=generator
        )
        return Batch(
            ts=send(self.series),
            ts_len=lengths[:, 0],
            img=images,
            note_tok=notes.float(),
            note_len=lengths[:, 2],
            present=send(self.present),
            label=send(self.label),
            task=self.task,
            visible=torch.where(self.present, self.lengths + 1, 0),
        ).check()


def embed_texts(ids: Tensor, texts: np.ndarray, embedder: Embedder) -> Tensor:
    """Vectors of the kept tokens of the texts of each sample, one text after the other: (B, N, width).

    Each text is embedded alone and as a whole, as where vectors are stored.

    Args:
        ids: (B, M) word-piece ids, the texts of a sample one after the other; of a text of which nothing is kept, none.
        texts: (B, K, 2), tokens of each text that are kept, and all of them.
        embedder: the encoder.
    """
    kept = texts[:, :, 0]
    whole = np.where(kept > 0, texts[:, :, 1], 0)
    source = np.cumsum(whole, axis=1) - whole  # first token of each text among the ids of its sample
    target = np.cumsum(kept, axis=1) - kept  # and among the kept tokens
    longest = int(kept.sum(axis=1).max())
    sample, text = np.nonzero(kept)
    by_length = np.argsort(whole[sample, text], kind="stable")
    sample, text = sample[by_length], text[by_length]
    lengths = whole[sample, text]
    out = None
    for a, b in batches(lengths, EMBEDDED_TOKENS):
        step = np.arange(lengths[b - 1])
        rows, n = sample[a:b, None], lengths[a:b]
        place = np.where(step < n[:, None], source[sample[a:b], text[a:b]][:, None] + step, 0)
        device = ids.device
        pieces = ids[torch.from_numpy(rows).to(device), torch.from_numpy(place).to(device)]  # (b - a, n)
        hidden = embedder(pieces.long(), torch.from_numpy(n).to(device))
        if out is None:
            out = hidden.new_zeros(len(ids) * longest, hidden.shape[-1])
        is_kept = step < kept[sample[a:b], text[a:b]][:, None]
        into = (rows * longest + target[sample[a:b], text[a:b]][:, None] + step)[is_kept]
        out[torch.from_numpy(into).to(device)] = hidden[torch.from_numpy(is_kept).to(device)]
    assert out is not None  # ids are there, so a text is kept
    return out.view(len(ids), longest, -1)
