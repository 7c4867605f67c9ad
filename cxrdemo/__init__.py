"""Chest X-ray demo: lung masking, findings and Grad-CAM, side by side. Research use only."""

__version__ = "0.1.0"
