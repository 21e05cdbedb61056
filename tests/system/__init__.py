"""Tests of whole parts on real services."""
