"""Pictures of trajectories: overlay video and plots."""
