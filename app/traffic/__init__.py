"""Versions tried beside the active one: a canary for some sessions, and a shadow that answers nobody."""
