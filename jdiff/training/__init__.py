"""The parts of a training loop that do not depend on the task."""
