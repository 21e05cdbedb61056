"""Suites that every implementation of a port must pass."""

import pytest

# Suites live in modules that are no tests themselves; without this their asserts would not say what they compared.
pytest.register_assert_rewrite("tests.conformance.adapters")
