"""Transformers: pure functions between the native formats of systems or standards and the canonical messages."""
