"""Training: the objective, the Lightning module, checkpoints and what is reported."""
