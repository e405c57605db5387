"""Short runs to be trained side by side."""

from __future__ import annotations

from typing import Any

import torch
from tests.helpers import TINY

import largedrop as ld
from largedrop.experiments.compare import Plan, plan

CPU = torch.device("cpu")
LONG: dict[str, Any] = {**TINY, "steps": 60, "eval_every": 20}
DIED = "a training process has died (out of memory?); fewer --jobs need less, and the same command resumes it"


def planned(data: ld.Dataset, *dropouts: float) -> Plan:
    return plan(data, CPU, test_domains=["photo"], dropouts=dropouts, **LONG)
