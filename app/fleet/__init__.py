"""Several servers that change weights as one: they agree through Redis, and give each other files over HTTP."""
