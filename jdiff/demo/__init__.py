"""A page to draw from a run, and to watch one that trains (--mode=serve; the extra "demo" brings Gradio)."""
