"""Settings of the whole suite."""

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# A shared machine stalls now and then: how long an example took says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

#: What benches alone use is tested too, with the small images of the tests of training.
sys.path += [str(Path(__file__).parent.parent / "bench"), str(Path(__file__).parent / "training")]
