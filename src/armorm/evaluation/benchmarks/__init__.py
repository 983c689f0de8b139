"""Benchmarks of reward models: their rows, their score rules and their result files."""
