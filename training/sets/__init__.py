"""Sets of images: indexes, layouts, downloads, tables."""
