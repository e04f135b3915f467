"""Settings of the whole suite."""

from hypothesis import HealthCheck, settings

# A shared machine stalls now and then: how long an example took says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
