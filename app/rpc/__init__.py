"""The processes of one server: how they are started, started again, and what they ask of each other."""
