"""Random nets: what the plan makes of them computes the same, to 1e-9 of each output's largest magnitude.

`BNFOLD_GRAPHS=10000 pytest tests/planner/test_random.py` tries more than the usual number of nets.
"""

from __future__ import annotations

import os
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .judge import judge
from .steps import random_net

GRAPHS = int(os.environ.get("BNFOLD_GRAPHS", "600"))


@settings(max_examples=GRAPHS, suppress_health_check=list(HealthCheck), derandomize=GRAPHS == 600)
@given(st.randoms(use_true_random=False))
def test_random_nets_compute_the_same(rng: Random) -> None:
    judge(random_net(rng))
