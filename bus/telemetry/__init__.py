"""Telemetry: what the bus says about itself while it works."""
