"""The Canonical Data Model: what plants and the ERP tell each other, one file per domain."""
