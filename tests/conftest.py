"""Settings of the whole suite."""

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# A shared machine stalls now and then: how long an example took says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

# What several folders of tests share, and what benches alone use, which is tested too.
_TESTS = Path(__file__).parent
sys.path += [str(folder) for folder in (_TESTS / "helpers", _TESTS / "training", _TESTS.parent / "bench")]
