"""From clips or keypoints to trajectories."""
