"""Detectors of what a reward model pays for."""
