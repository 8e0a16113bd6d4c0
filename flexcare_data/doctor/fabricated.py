"""Compare the cohorts of the embedded fabricated data with those that they should be.

In: a `Config` without raw folders. Out: a finding. The expected digests are those of the default settings, for both
protocols: `python -m flexcare_data fingerprint --renew` computes them. A difference means that this installation makes
another benchmark of equal data: another machine or library version computes something differently, or the code has
changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flexcare_data.config import Config
from flexcare_data.doctor.findings import Report
from flexcare_data.options import PROTOCOLS
from flexcare_data.package_files import package_file
from flexcare_data.plan import Plan
from flexcare_data.schema import cohort_stage
from flexcare_data.store.folders import MANIFEST

WHAT = "fingerprint of the fabricated data"
FILE = "data/fingerprint.json"


def expected() -> dict[str, Any]:
    """The settings of the data, and by protocol the total and the digests of each part of each task."""
    return json.loads(package_file("flexcare_data/resources/fabricated_fingerprints.json").read_text())


def check_fingerprint(report: Report, config: Config) -> None:
    """Report whether the built cohorts are those that the embedded data should give."""
    if not config.is_synthetic:
        return
    expectation = expected()
    protocol = _known_protocol(config, expectation["synthetic"])
    if protocol is None:
        report.add(
            "info", WHAT, "none is known for these settings of `synthetic` and these options",
            do="compare with another machine: flexcare fingerprint --out FILE, and there --compare FILE",
        )  # fmt: skip
        return
    known = expectation["protocols"][protocol]
    built = _built(config)
    if built is None:
        report.add(
            "info", WHAT, "cohorts of these settings and this code are not built",
            expected=f"{known['total']} for all tasks of the paper, protocol {protocol}",
        )  # fmt: skip
        return
    wrong = [
        f"{task} {part}"
        for task, digests in known["tasks"].items()
        for part, found in built["tasks"].get(task, {"parts": {}})["parts"].items()
        if digests[part] != found["digest"]
    ]
    if wrong:
        report.add(
            "warning", WHAT, f"{', '.join(wrong)} differ", expected=f"those of protocol {protocol}",
            do="This installation makes other cohorts of equal data: compare its library versions with "
            "requirements.lock. After a change of the code on purpose: python -m flexcare_data fingerprint --renew",
        )  # fmt: skip
    else:
        n = len(built["tasks"].keys() & known["tasks"].keys())
        report.add("info", WHAT, f"{built['total']}: {n} tasks are as expected for protocol {protocol}")


def _known_protocol(config: Config, synthetic: dict[str, Any]) -> str | None:
    """The protocol whose options ``config`` has, where the data has the settings ``synthetic``."""
    if config.synthetic.model_dump(mode="json") != synthetic:
        return None
    same = [name for name, options in PROTOCOLS.items() if options == config.resolved_options]
    return same[0] if same else None


def _built(config: Config) -> dict[str, Any] | None:
    """The fingerprint in the output folder, if it is that of the cohorts of ``config`` under the present code."""
    path = Path(config.output, FILE)
    try:
        inputs = json.loads((path.resolve().parent / MANIFEST).read_text())["spec"]["inputs"]
        found = json.loads(path.read_text())
    except (OSError, ValueError, KeyError):
        return None
    plan = Plan(config)
    keys = {name: plan.product(name).key for name in map(cohort_stage, plan.tasks)}
    return found if keys.items() <= inputs.items() else None
