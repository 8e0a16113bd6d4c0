"""Origin of an output folder: real data from which folders, or fabricated data.

In: the configuration, the configuration files that were given. Out: `origin.json` in the output folder. The next
build is compared with it, so that a forgotten ``--configfile`` cannot replace results of real data by fabricated ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flexcare_data.config import Config
from flexcare_data.errors import UserError
from flexcare_data.hashing import spec_key
from flexcare_data.raw.files import RawDataError, locate
from flexcare_data.schema import RAW
from flexcare_data.store.folders import atomic_write

NAME = "origin.json"


class OriginError(UserError):
    """The output folder holds results of other raw data than this build would use."""


@dataclass(frozen=True)
class Origin:
    """Origin of results.

    Attributes:
        synthetic: whether the raw data is fabricated.
        raw: absolute paths of the raw data sets that are set.
        identity: a digest of the sizes of its tables for each data set, by which a folder that was moved is recognised.
        configfiles: absolute paths of the configuration files that were given.
    """

    synthetic: bool
    raw: dict[str, str]
    identity: dict[str, str]
    configfiles: list[str]

    @classmethod
    def of(cls, config: Config, configfiles: Iterable[str | Path]) -> Origin:
        """The origin of a build."""
        roots = {} if config.is_synthetic else {name: path for name, path in config.raw if path is not None}
        return cls(
            synthetic=config.is_synthetic,
            raw={name: str(path.absolute()) for name, path in roots.items()},
            identity={name: digest for name, path in roots.items() if (digest := _identity(name, path))},
            configfiles=[str(Path(path).absolute()) for path in configfiles],
        )

    def check(self, output: Path) -> None:
        """Compare with what ``output`` was built from. Adding or leaving out a data set is allowed.

        Raises:
            OriginError: fabricated instead of real data, or the other way round, or other folders with other content.
        """
        known = read(output)
        if known is None:
            return
        if known.synthetic != self.synthetic:
            kinds = {True: "fabricated data", False: f"real data ({', '.join(known.raw.values())})"}
            now = "the embedded fabricated data" if self.synthetic else f"real data ({', '.join(self.raw.values())})"
            meant = " ".join(known.configfiles)
            hint = f"did you forget `--configfile {meant}`? Otherwise " if meant and self.synthetic else ""
            raise OriginError(
                f"{output}: holds results of {kinds[known.synthetic]}, and this build would use {now}; "
                f"{hint}set output to another folder"
            )
        for name, path in self.raw.items():
            before = known.raw.get(name)
            if before not in (None, path) and known.identity.get(name) != self.identity.get(name):
                raise OriginError(
                    f"{output}: holds results of raw.{name} {before}, and this build would use {path}, whose tables "
                    "differ; set output to another folder"
                )

    def write(self, output: Path) -> None:
        """Write the origin into ``output``; data sets written before are kept."""
        known = read(output)
        merged = self
        if known is not None:
            merged = Origin(
                self.synthetic,
                known.raw | self.raw,
                known.identity | self.identity,
                self.configfiles or known.configfiles,
            )
        if merged != known:
            atomic_write(output / NAME, json.dumps(asdict(merged), indent=1, sort_keys=True) + "\n")


def read(output: Path) -> Origin | None:
    """The origin written in ``output``; None where there is none."""
    try:
        return Origin(**json.loads((output / NAME).read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        raise OriginError(f"{output / NAME}: expected a file written by this workflow; remove it") from None


def _identity(name: str, root: Path) -> str:
    """A digest of the sizes of the tables of a data set; empty where none is found."""
    sizes = {}
    for table in RAW.values():
        if table.root == name:
            try:
                sizes[table.name] = locate(root, table.name).stat().st_size
            except (RawDataError, OSError):
                continue
    return spec_key(sizes) if sizes else ""
