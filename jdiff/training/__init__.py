"""What training is made of: optimizer, EMA, the step, checkpoints, sharding, writers. It knows no task."""
