"""A run's weights; where training starts; export."""
