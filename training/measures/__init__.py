"""Figures: from what the app computes to numbers with intervals."""
