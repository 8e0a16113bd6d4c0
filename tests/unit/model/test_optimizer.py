"""Adam by its functional form: torch's own class step for step, and none of what that class imports."""

from __future__ import annotations

import subprocess
import sys

import torch

from flexcare_model.training.optimizer import Adam


def test_it_moves_parameters_as_torch_does():
    """With a rate per step, and a parameter that some losses do not touch, as a task's head."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((4, 3), (3,))]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    optimizer, reference = Adam(ours), torch.optim.Adam(theirs, fused=True)
    for step, rate in enumerate([1e-1, 1e-1, 2e-2, 5e-2]):
        inputs = torch.randn(5, 4, generator=generator)
        reference.param_groups[0]["lr"] = rate
        for parameters in (ours, theirs):
            hidden = inputs @ parameters[0]
            (hidden if step % 2 else hidden + parameters[1]).square().sum().backward()
        optimizer.step(rate)
        reference.step()
        optimizer.zero_grad()
        reference.zero_grad()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert [float(optimizer.state[parameter]["step"]) for parameter in ours] == [4, 2]


def test_training_does_not_import_the_compiler():
    """It takes as long as importing torch, in each of many short runs."""
    program = (
        "import sys, torch, flexcare_model.training.train\n"
        "from flexcare_model.training.optimizer import Adam\n"
        "torch.set_deterministic_debug_mode('warn')\n"
        "weight = torch.nn.Parameter(torch.ones(2))\n"
        "weight.sum().backward()\n"
        "Adam([weight]).step(0.1)\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
