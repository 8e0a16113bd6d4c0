"""Load a note encoder whose files may change meanwhile.

In: the folder of an encoder. Out: an `Encoder` that no longer depends on its files.
"""

from __future__ import annotations

from flexcare_model.notes.encoder import Encoder, EncoderError, encoder_digest, find_encoder, load_encoder


def load_into_memory(name: str) -> Encoder:
    """`load_encoder` with a copy of the weights: as loaded they are a view of the file, and change with it.

    Raises:
        EncoderError: as `load_encoder`; also if the files change meanwhile.
    """
    folder = find_encoder(name)
    before = encoder_digest(folder)
    loaded = load_encoder(str(folder))
    for weights in loaded.model.parameters():
        weights.data = weights.data.clone()
    if not before == loaded.digest == encoder_digest(folder):
        raise EncoderError(
            f"encoder {name}: has changed while it was loaded; nothing was stored. Give the same command again"
        )
    return loaded
