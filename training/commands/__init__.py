"""The commands of `python -m training`: flags and orchestration."""
