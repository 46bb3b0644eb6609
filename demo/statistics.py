"""Reports and publications → the figures of the run. One lock; any thread may write or read."""

import statistics
import threading
import time
from collections import Counter, defaultdict, deque

from demo.messages import (
    EpisodePoint,
    Figures,
    Publication,
    Report,
    Sighting,
    VersionFigures,
)

_RATE_WINDOW_S = 5.0
_RECENT_EPISODES = 50
_FAILURES_KEPT = 5  # enough to see what went wrong; all of them are counted


class Statistics:
    """Counts what the simulators report and what the trainer publishes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._ended: float | None = None
        self._answers: Counter[str] = Counter()
        self._evaluation_answers = 0
        self._rows = 0
        self._environment_steps = 0
        self._failures = 0
        self._first_failures: list[str] = []
        self._curve: list[EpisodePoint] = []
        self._returns: defaultdict[int, list[float]] = defaultdict(list)  # by train step
        self._published: dict[str, tuple[Publication, int]] = {}
        self._seen: dict[str, Sighting] = {}
        self._recent: deque[tuple[float, int]] = deque()  # (arrival, answers), the rate window
        self._followed = 0

    def start(self) -> None:
        """Records the start of play."""
        with self._lock:
            self._started = time.monotonic()

    def end(self) -> None:
        """Records the end of play: from now on, seconds and answers per second are those of the whole play."""
        with self._lock:
            self._ended = time.monotonic()

    def add(self, report: Report) -> None:
        """Counts one report of a simulator."""
        now = time.monotonic()
        with self._lock:
            self._answers.update(report.answers)
            self._rows += report.rows
            self._environment_steps += report.environment_steps
            self._followed += report.followed
            self._recent.append((now, sum(report.answers.values())))
            self._count_failures(report.failures)
            for sighting in report.sightings:
                earliest = self._seen.setdefault(sighting.version, sighting)
                if sighting.at < earliest.at:
                    self._seen[sighting.version] = sighting
            for episode in report.episodes:
                self._returns[episode.train_step].append(episode.episode_return)
                self._curve.append(EpisodePoint(self._environment_steps, episode.episode_return, episode.train_step))

    def published(self, publication: Publication) -> None:
        """Records a checkpoint that is complete on disk."""
        with self._lock:
            self._published[publication.name] = (publication, self._environment_steps)

    def evaluated(self, answers: int, rows: int, failures: tuple[str, ...]) -> None:
        """Counts requests of the evaluation: as requests, not as play."""
        with self._lock:
            self._evaluation_answers += answers
            self._rows += rows
            self._count_failures(failures)

    def seen(self, version: str) -> bool:
        """Returns whether a simulator got an answer of this version."""
        with self._lock:
            return version in self._seen

    def recent_mean(self, episodes: int) -> float | None:
        """Returns the mean return of the newest finished episodes; None before there are so many."""
        with self._lock:
            newest = self._curve[-episodes:]
        if len(newest) < episodes:
            return None
        return statistics.fmean(point.episode_return for point in newest)

    def curve(self) -> tuple[EpisodePoint, ...]:
        """Returns every finished episode, in order of arrival."""
        with self._lock:
            return tuple(self._curve)

    def figures(self) -> Figures:
        """Returns everything counted up to now."""
        with self._lock:
            versions = self._versions()
            swaps = [one.swap_ms for one in versions if one.swap_ms is not None]
            newest = self._curve[-_RECENT_EPISODES:]
            return Figures(
                seconds=(self._ended or time.monotonic()) - self._started,
                now_serving=max(self._seen.values(), key=_train_step).version if self._seen else "",
                requests=self._answers.total() + self._evaluation_answers + self._failures,
                rows=self._rows,
                environment_steps=self._environment_steps,
                answers_per_second=self._rate(),
                failures=self._failures,
                first_failures=tuple(self._first_failures),
                episodes=len(self._curve),
                recent_return=statistics.fmean(p.episode_return for p in newest) if newest else None,
                swaps=len(swaps),
                last_swap_ms=swaps[-1] if swaps else None,
                median_swap_ms=statistics.median(swaps) if swaps else None,
                versions=versions,
                followed=self._followed,
            )

    def _count_failures(self, failures: tuple[str, ...]) -> None:
        self._failures += len(failures)
        room = _FAILURES_KEPT - len(self._first_failures)
        self._first_failures += failures[:room]

    def _rate(self) -> float:
        """Answers per second of the last few seconds, or of the whole play when it is over."""
        if self._ended is not None:
            return self._answers.total() / (self._ended - self._started)
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > _RATE_WINDOW_S:
            self._recent.popleft()
        span = min(_RATE_WINDOW_S, now - self._started)
        return sum(answers for _, answers in self._recent) / span if span > 0 else 0.0

    def _versions(self) -> tuple[VersionFigures, ...]:
        """One line for each version that was published or seen."""
        steps = {name: publication.train_step for name, (publication, _) in self._published.items()}
        steps |= {name: sighting.train_step for name, sighting in self._seen.items()}
        ordered = sorted(steps, key=lambda name: steps[name])
        return tuple(self._version(name, steps[name]) for name in ordered)

    def _version(self, name: str, train_step: int) -> VersionFigures:
        publication, at_steps = self._published.get(name, (None, None))
        sighting = self._seen.get(name)
        returns = self._returns.get(train_step, [])
        swap_ms = None
        if publication is not None and sighting is not None:
            swap_ms = 1000 * (sighting.at - publication.at)
        return VersionFigures(
            version=name,
            train_step=train_step,
            published_at_s=publication.at - self._started if publication else None,
            published_at_steps=at_steps,
            swap_ms=swap_ms,
            answers=self._answers[name],
            episodes=len(returns),
            mean_return=statistics.fmean(returns) if returns else None,
        )


def _train_step(sighting: Sighting) -> int:
    return sighting.train_step
