"""Functions of feature arrays."""
