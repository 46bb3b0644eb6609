"""Runs a policy with TensorFlow: SavedModels loaded, checkpoints restored into them."""
