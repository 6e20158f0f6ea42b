"""The mathematics of diffusion: no network, no file, no config.

Everything speaks sigma, the noise-to-signal ratio of x = x0 + sigma eps (Karras et al., arXiv 2206.00364).
"""
