"""Exports opened beside where they lie."""

from pathlib import Path

from app.artifacts.bundle import Graph
from app.builder.open_export import open_export


def opened(folder: Path) -> Graph:
    return open_export(folder, folder.parent / "graphs")
