"""Files to specs and back: models, traces, results; errors with file and line."""
