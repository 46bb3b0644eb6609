"""The door: HTTP routes, one file per group. The only folder that imports FastAPI."""
