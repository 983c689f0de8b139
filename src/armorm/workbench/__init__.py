"""Pages on which people read scores, compare responses, and steer the model."""
