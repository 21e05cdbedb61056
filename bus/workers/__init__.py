"""The workers: hints over Dramatiq, one worker per process, and the supervisor of `bus run`."""
