"""Metrics as pure functions: of sets of images by their features [n, d] or moments, and of images by a reference."""
