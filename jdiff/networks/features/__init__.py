"""Pretrained feature networks, on which distances between sets of images are measured. interop.features reads their
weights.
"""
