"""Rotations, transforms, cameras, boxes, alignment and ray casting: torch in, torch out."""
