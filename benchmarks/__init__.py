"""Speed, measured against named references: `python -m benchmarks`."""
