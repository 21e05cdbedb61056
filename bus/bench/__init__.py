"""Measures the bus on this machine beside what a user would pick instead; `bus bench` runs it."""
