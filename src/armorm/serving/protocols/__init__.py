"""Wire formats of RL trainers and inference servers, one module each."""
