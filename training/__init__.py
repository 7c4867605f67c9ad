"""Reproduces the bundled checkpoints. Imports the package, never the reverse."""
