"""A row as `armorm score` writes it."""

ROW = {
    "prompt": "hello",
    "response": "ok",
    "score": 0.5,
    "rewards": {"tone": 0.5, "safe": 1.0},
    "gating": {"tone": 0.4, "safe": 0.3},
    "coefficients": {"tone": 0.4, "safe": 0.3},
}
