"""Looking after the store: what is in it, whether it is sound, what may go, what made it.

In: the folder of the store. Out: values and text for the command line (`python -m flexcare_data store ls | verify |
prune | explain`). Only `prune` with ``dry_run=False`` changes anything.
"""

from flexcare_data.upkeep.entries import Entry, find, ls, table
from flexcare_data.upkeep.origins import explain
from flexcare_data.upkeep.problems import verify
from flexcare_data.upkeep.removals import Removal, prune

__all__ = ["Entry", "Removal", "explain", "find", "ls", "prune", "table", "verify"]
