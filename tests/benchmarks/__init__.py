"""Measurements, never timed tests: each prints its table and says what machine it ran on."""
