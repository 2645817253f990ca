"""Trajectories to files and back: npz, glb, html, summary."""
