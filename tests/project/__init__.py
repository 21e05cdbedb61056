"""Tests of the project: its contracts, transformers and routes, with the value maps that its folders hold."""
