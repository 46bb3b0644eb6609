"""The process that decides which version serves, and starts the others."""
