"""The batch is as fast as we say: ratios to Gymnasium's SyncVectorEnv, per CPU-second, in one run."""

from __future__ import annotations

import pytest

from tests.benchmarks.bench_environments import throughput


@pytest.mark.slow
def test_pendulum_steps_against_gymnasium_s_synchronous_vector_environment():
    ratios = throughput()
    assert ratios["1024"] > 60.0
    assert ratios["65536"] > 400.0
