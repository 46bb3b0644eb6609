"""The processes of one server: how they are started, started again, and how they call each other."""
