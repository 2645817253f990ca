"""Samples, crops, and synthetic clips: how pixels become network input."""
