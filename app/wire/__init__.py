"""Bytes ⇄ structures of arrays, one codec per file. Pure."""
