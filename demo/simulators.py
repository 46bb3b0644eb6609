"""All simulators together: started, drained, watched, stopped.

One thread of the demo's process takes reports from the queue.
"""

import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from types import TracebackType

from demo.messages import DemoError, Plan, Report
from demo.simulator import simulate
from demo.statistics import Statistics

_REPORTS_PER_SIMULATOR = 4  # half a second of play; then a simulator waits for the demo
_HEALTH_EVERY_S = 0.5
_SILENCE_S = 60.0
_STOP_WITHIN_S = 10.0
_FAILURES_TOO_MANY = 50


class Simulators:
    """Processes that play through the server at `address`. Use as a context."""

    def __init__(
        self, plan: Plan, address: str, seed: int, statistics: Statistics, check_server: Callable[[], None]
    ) -> None:
        self._plan = plan
        self._statistics = statistics
        self._check_server = check_server
        spawn = multiprocessing.get_context("spawn")  # a fork would carry TensorFlow's threads along
        self._reports: Queue[Report] = spawn.Queue(plan.simulators * _REPORTS_PER_SIMULATOR)
        self._stop = spawn.Event()
        self._arrived = threading.Condition()
        self._failures = 0
        self._last_failure = ""
        self._receiver = threading.Thread(target=self._receive, name="reports", daemon=True)
        self._processes = [
            spawn.Process(
                target=simulate,
                name=f"simulator-{number}",
                args=(
                    number,
                    address,
                    plan.environments_per_simulator,
                    plan.steps_per_report,
                    seed + 1000 * (number + 1),
                    self._reports,
                    self._stop,
                ),
                daemon=True,
            )
            for number in range(plan.simulators)
        ]

    def __enter__(self) -> "Simulators":
        # Ignored signals stay ignored in children: Ctrl-C is for the demo, which then stops them.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for process in self._processes:
                process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        self._receiver.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the processes; every report that they still make is counted."""
        self._stop.set()
        deadline = time.monotonic() + _STOP_WITHIN_S
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._receiver.join(_STOP_WITHIN_S)  # a killed process may leave half a report in the pipe
        self._reports.close()

    def wait_for(self, version: str) -> None:
        """Waits until a simulator got an answer of `version`. Raises DemoError when none comes."""
        deadline = time.monotonic() + _SILENCE_S
        with self._arrived:
            while not self._statistics.seen(version):
                self._arrived.wait(_HEALTH_EVERY_S)
                self.check()
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"checkpoint {version} was published {_SILENCE_S:.0f} s ago, and the "
                        "server does not answer with it"
                    )

    def check(self) -> None:
        """Raises DemoError when the server or a simulator has ended, or most requests fail."""
        self._check_server()
        for process in self._processes:
            if process.exitcode is not None:
                raise DemoError(f"{process.name} ended with exit status {process.exitcode}")
        if self._failures >= _FAILURES_TOO_MANY:
            raise DemoError(f"{self._failures} requests failed; the last: {self._last_failure}")

    def _receive(self) -> None:
        """Takes reports until all simulators have ended and the queue is empty."""
        while True:
            playing = any(process.is_alive() for process in self._processes)
            try:
                report = self._reports.get(timeout=_HEALTH_EVERY_S)
            except queue.Empty:
                if not playing:
                    return
                continue
            self._statistics.add(report)
            with self._arrived:
                self._failures += len(report.failures)
                if report.failures:
                    self._last_failure = report.failures[-1]
                self._arrived.notify()
