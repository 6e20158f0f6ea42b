"""Networks as Flax Linen modules. They take and return arrays and know nothing of diffusion."""
