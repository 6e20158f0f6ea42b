"""Metrics of sets of images, computed from feature arrays."""
