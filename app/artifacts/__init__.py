"""Folders on disk: exports, checkpoints, bundles, and what lies in them. Read without TensorFlow."""
