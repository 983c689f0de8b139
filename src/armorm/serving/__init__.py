"""The reward server: an HTTP interface whose requests share batches."""
