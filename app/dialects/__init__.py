"""Protocols of other servers: bytes ⇄ arrays by flattened names, one file a protocol. Knows no HTTP, engine or swap."""
