"""Where images come from, and the Grain pipeline that feeds them. Nothing here computes with JAX."""
