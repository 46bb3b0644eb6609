"""A policy's manager, put together of its parts."""

from __future__ import annotations

from concurrent.futures import Executor

from app.control.history import History
from app.control.manager import Manager
from app.control.prepare import Builder, Preparing
from app.control.records import Records
from app.control.reexport import ExportFolder
from app.control.scanner import Scanner
from app.control.source import Source
from app.control.state_dir import StateDir
from app.control.swap import Swapper
from app.control.targets import TargetSwapper
from app.settings import PolicyFolder


def build_manager(
    named: PolicyFolder,
    builder: Builder,
    source: Source,
    state_dir: StateDir,
    executor: Executor,
    history: History,
) -> Manager:
    """Puts the manager of one policy together; it is not started."""
    records = Records(state_dir, executor)
    export = ExportFolder(named.name, named.folder, builder, state_dir, executor)
    scanner = Scanner(source, export, history, executor)
    swapper = Swapper(named.name, history, history.metrics)
    preparing = Preparing(builder, state_dir, swapper, executor)
    targets = TargetSwapper(named.name, history, export, preparing, swapper, records)
    return Manager(named.name, history, export, scanner, records, targets)
