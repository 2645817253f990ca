"""The hand: joint names, the parametric model, the free openhand, anatomy and mirroring."""
