"""Checkpoints that come over HTTP: unpacked, verified, published."""
