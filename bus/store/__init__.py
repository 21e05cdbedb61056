"""The store: the one truth about every message and delivery, on SQLite and on PostgreSQL."""
