"""The expected fingerprint of the embedded fabricated data, which the doctor compares with what was built.

In: nothing; the default settings. Out: `resources/fabricated_fingerprints.json`. It is no part of any stage's code, so
writing it again makes nothing again. `renew` is for a change of the code that is meant to change the cohorts.
"""

from __future__ import annotations

import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from flexcare_data.config import Config, load_config
from flexcare_data.export.fingerprint import Fingerprint, fingerprint
from flexcare_data.options import PROTOCOLS
from flexcare_data.package_files import package_file
from flexcare_data.plan import Plan
from flexcare_data.schema import task_of_stage
from flexcare_data.stages.work import DeclaredOptions, StageWork
from flexcare_data.store.folders import is_complete
from flexcare_data.store.recipe import link_all


def renew() -> None:
    """Write the expected fingerprint again: fabricate the default data, and build the cohorts of both protocols."""
    content = json.dumps(computed(), indent=1) + "\n"
    package_file("flexcare_data/resources/fabricated_fingerprints.json").write_text(content)


def computed() -> dict[str, Any]:
    """The settings of the data, and by protocol the total and the digests of each part of each task."""
    with tempfile.TemporaryDirectory(prefix="flexcare-fingerprint-") as folder:
        configs = {protocol: load_config({"protocol": protocol, "output": folder}) for protocol in PROTOCOLS}
        protocols = {protocol: _content(build(config)) for protocol, config in configs.items()}
    return {"synthetic": load_config({}).synthetic.model_dump(mode="json"), "protocols": protocols}


def build(config: Config) -> Fingerprint:
    """Build the cohorts of ``config``, which has no raw folders, in one process; return their fingerprint."""
    plan = Plan(config)
    for name in ("synthetic", *plan.shared, *plan.cohorts):
        _run(plan, name)
    with tempfile.TemporaryDirectory(prefix="flexcare-fingerprint-") as view:
        products = [plan.product(name) for name in (*plan.shared, *plan.cohorts)]
        # A task without tails has no folder of them, so only files that exist are linked.
        links = {link: path.absolute() for product in products for link, path in product.published.items()}
        link_all(Path(view), {link: path for link, path in links.items() if path.exists()})
        return fingerprint(Path(view))


def _run(plan: Plan, name: str) -> None:
    product, row = plan.product(name), plan.stage(name)
    if is_complete(product.folder):
        return
    task = task_of_stage(name)
    work = StageWork(
        name=name,
        out=product.folder,
        options=DeclaredOptions(plan.options, row.options),
        declared_raw=row.raw,
        roots=plan.roots(),
        upstream={upstream: read.folder for upstream, read in product.inputs.items()},
        settings=plan.settings(name) | ({"task": task} if task else {}),
        spec=product.spec,
    )
    import_module(row.module).run(work)


def _content(found: Fingerprint) -> dict[str, Any]:
    tasks = {name: {part: printed.digest for part, printed in task.parts.items()} for name, task in found.tasks.items()}
    return {"total": found.total, "tasks": tasks}
