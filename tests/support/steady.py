"""A light load that never stops: every answer is checked as it comes, and only what is wrong is kept."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx

PAUSE_S = 0.004


def until(condition: Callable[[], object], what: str = "it", timeout_s: float = 600) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} has not come about within {timeout_s:g} s"
        time.sleep(0.005)


@contextmanager
def threads_running(threads: Sequence[threading.Thread], over: threading.Event) -> Iterator[None]:
    """Starts the threads; `over`, by which they end, is set after the block."""
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


class SteadyLoad:
    """Clients of a NumberPolicy. `good` has the train step of every version that may answer, by name."""

    def __init__(self, url: str, policy: str, good: dict[str, int], clients: int = 2) -> None:
        self.good = good
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._path = f"{url}/v1/policies/{policy}/action"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(client,)) for client in range(clients)]

    def __enter__(self) -> "SteadyLoad":
        for thread in self._threads:
            thread.start()
        self.more(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Waits for that many more answers."""
        goal = self.answers.total() + count
        until(lambda: self.answers.total() >= goal or self.failures, f"{count} more answers")

    def new_failures(self) -> list[str]:
        """What went wrong since the last call."""
        failures, self.failures = self.failures, []
        return failures

    def _ask(self, client: int) -> None:
        marks = [100 * client + row for row in range(1 + client)]
        body = {"observation": [[mark, 0, 0, 0] for mark in marks]}
        with httpx.Client(trust_env=False, timeout=600) as http:
            while not self._stop.wait(PAUSE_S):
                try:
                    self._check(http.post(self._path, json=body), marks)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    self._stop.wait(0.2)  # or a server that is gone would fill the list

    def _check(self, response: httpx.Response, marks: list[int]) -> None:
        answer = response.json() if response.status_code == 200 else {}
        version, step = answer.get("version"), answer.get("train_step")
        if version not in self.good or self.good[version] != step:
            self.failures.append(f"{response.status_code}: {response.text[:300]}")
        elif answer["action"] != [[1000 * step + mark] * 2 for mark in marks]:
            self.failures.append(f"{version} does not answer {answer['action']}")
        else:
            self.answers[version] += 1
