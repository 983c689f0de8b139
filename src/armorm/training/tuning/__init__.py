"""Training the backbone itself: Bradley–Terry pre-training, and regression through the backbone."""
