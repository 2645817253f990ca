"""Solving for the trajectory under the training losses."""
