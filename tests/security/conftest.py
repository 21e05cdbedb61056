"""The recorded day of the unit tests, for hostile hands; and how many examples a fuzz test tries."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.security.hostile_documents import EXAMPLES_TRIED
from tests.unit.conftest import plant, recorded_day

__all__ = ["plant", "recorded_day"]

settings.register_profile("plantbus", deadline=None)
settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=EXAMPLES_TRIED,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("fuzz" if os.environ.get("PLANTBUS_FUZZ") else "plantbus")
