"""Runs: settings, order of the images, trainer, record."""
