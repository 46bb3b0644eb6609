"""Experience: the steps of sessions as rows of trajectories, on disk and for trainers."""
