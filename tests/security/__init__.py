"""Hostile tests: each rule of the security floor against somebody who means harm; README.md names the test of each."""
