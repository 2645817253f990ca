"""Tensors in, one scalar out; shared by training and refinement."""
