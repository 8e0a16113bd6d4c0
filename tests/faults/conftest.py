"""One tiny build for all fault tests: fabricated raw files, a store with every stage, an output folder, a run."""

from __future__ import annotations

import pytest
from support import canaries
from support.killable import run
from support.prepared import PATCHES, Base

from flexcare_data.config import load_config
from flexcare_data.plan import Plan
from flexcare_data.synthetic.write import write_data_set


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Base:
    """The build without faults; the tests only read its store and output."""
    from support.builds import build

    base = Base(tmp_path_factory.mktemp("base"))
    write_data_set(base.raw, patients=40, seed=3, edition="2.2")
    canaries.plant(base.raw)
    build(base.raw, base.store)
    base.encoder.symlink_to(base.store / "encoder")
    for stage in ("images", "encoder", "notes"):
        done = run(base.command(stage, base.store / stage), watched=base.store, patches=PATCHES)
        assert done.status == 0, done.printed
        base.printed.append(done.printed)
    plan = Plan(load_config({}))
    for name in (*plan.shared, *plan.cohorts, "audit", "images", "notes"):
        for file, link in plan.stage(name).outputs.items():
            place = base.output / link
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(base.store / name / file)
    done = run(base.command("train", base.output / "runs/flexcare/six_tasks/seed40"), watched=base.output)
    assert done.status == 0, done.printed
    base.printed.append(done.printed)
    return base
