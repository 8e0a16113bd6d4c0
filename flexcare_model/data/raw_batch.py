"""A batch in its stored form, which is small to copy; it is transformed on the device.

In: rows of the shards, as `TaskDataset.raw_batch` gathers them. Out: a `Batch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flexcare_data.modalities import NOTE_WIDTH
from flexcare_model.data.batch import Batch
from flexcare_model.data.image_transforms import model_images
from flexcare_model.data.index import SampleError
from flexcare_model.notes.storage import dequantize

Embedder = Callable[[Tensor, Tensor], Tensor]
"""Word-piece ids (B, N) and lengths (B,) to token vectors (B, N, width): the frozen encoder, for shards of ids."""


@dataclass(frozen=True)
class RawBatch:
    """A batch in its stored form; `finish` makes it a `Batch` on a device. B samples, n of them with an image."""

    series: Tensor  # (B, T, 76) float32
    images: Tensor  # (n, 256, 256) uint8
    image_rows: Tensor  # (n,) int64, ascending: sample of each image
    tokens: Tensor  # (B, N, width) float16, float32 or int8; (B, N) int32 word-piece ids
    token_scale: Tensor | None  # (B, N) float16, for int8
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
            empty = torch.zeros(len(tokens), 0, note_width, device=tokens.device)
            notes = embedder(tokens.long(), lengths[:, 2]) if tokens.shape[1] and embedder else empty
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
        )
