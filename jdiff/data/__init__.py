"""Sources of images, views, transforms and the Grain pipeline. Nothing here computes with JAX."""
