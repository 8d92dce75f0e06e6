"""The top floor: pipelines, wiring, the lock-step run and the command line."""
