"""Stage `encoder`: a note encoder that is not a local folder, kept in the store.

In: `tiny` and the texts whose words become its vocabulary, or a name of the hub. Out: a folder that
`flexcare_model.notes.encoder` reads. A hub name is resolved once per store: later builds use the same download.
"""

from __future__ import annotations

import shutil

from flexcare_data.stages.work import StageWork
from flexcare_model.notes.encoder import FILES, find_encoder
from flexcare_model.notes.texts import texts_of
from flexcare_model.notes.tiny import make_tiny_encoder

TINY = "tiny"


def run(work: StageWork) -> None:
    """Prepare the encoder ``work.settings["encoder"]``."""
    name = work.settings["encoder"]
    with work.folder() as folder:
        if name == TINY:
            texts = texts_of(work.upstream).drop("note_id").collect()
            make_tiny_encoder(folder, [text for column in texts for text in column.drop_nulls()])
            return
        source = find_encoder(name)
        for path in sorted({path for pattern in FILES for path in source.glob(pattern)}):
            shutil.copyfile(path, folder / path.name)  # the hub's cache holds links
