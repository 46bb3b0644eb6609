"""Real TF-Agents policies of every kind, for tests."""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # before anything here imports TensorFlow
