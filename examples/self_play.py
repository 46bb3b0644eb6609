"""Two policies play against each other: one server, a session for each player.

python -m examples.self_play http://localhost:8000 --chaser cartpole --runner cartpole --games 5
"""

import argparse

import numpy as np

from policy_client import RemotePolicy

PLAYERS = ("chaser", "runner")
LENGTH, NEAR, PUSH, FRICTION, LONGEST = 10.0, 0.5, 0.2, 0.9, 60


class Chase:
    """A game on a ring, with the methods of PettingZoo's parallel games: each player pushes itself left or right.

    A player sees its velocity, the way to the other, the other's velocity, and the part of the time that is gone. The
    game ends when the chaser is near, and is cut short after 60 steps.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def reset(self) -> dict[str, np.ndarray]:
        """The players' first observations."""
        self._age = 0
        self._place = self._random.uniform(0, LENGTH, 2)
        self._speed = np.zeros(2)
        return self._seen()

    def step(self, actions: dict[str, int]) -> tuple[dict[str, np.ndarray], dict[str, float], bool, bool]:
        """Their next observations, their rewards, whether it is over, and whether it was cut short."""
        pushes = np.array([PUSH * (2 * int(actions[player]) - 1) for player in PLAYERS])
        self._speed = FRICTION * self._speed + pushes
        self._place = (self._place + self._speed) % LENGTH
        self._age += 1
        caught = abs(self._way()) < NEAR
        reward = 1.0 if caught else -0.01
        return self._seen(), {"chaser": reward, "runner": -reward}, caught, self._age == LONGEST and not caught

    def _way(self) -> float:
        return float((self._place[1] - self._place[0] + LENGTH / 2) % LENGTH - LENGTH / 2)

    def _seen(self) -> dict[str, np.ndarray]:
        way, (chaser, runner), age = self._way(), self._speed, self._age / LONGEST
        return {
            "chaser": np.array([chaser, way, runner, age], np.float32),
            "runner": np.array([runner, -way, chaser, age], np.float32),
        }


def main() -> None:
    """Plays whole games, and prints how many steps they had and how often the chaser won."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--chaser", default="cartpole")
    parser.add_argument("--runner", default="cartpole")
    parser.add_argument("--games", type=int, default=5)
    given = parser.parse_args()

    game = Chase(seed=0)
    steps = caught_in = 0
    with RemotePolicy(given.url, given.chaser) as chaser, RemotePolicy(given.url, given.runner) as runner:
        seen = game.reset()
        with chaser.session(seen["chaser"]) as one, runner.session(seen["runner"]) as two:
            sessions = dict(zip(PLAYERS, (one, two), strict=True))
            for number in range(given.games):
                if number:
                    seen = game.reset()
                    for player, session in sessions.items():
                        session.step(seen[player], first=True)
                caught = cut_short = False
                while not caught and not cut_short:
                    actions = {player: int(session.answer.action) for player, session in sessions.items()}
                    seen, rewards, caught, cut_short = game.step(actions)
                    steps += 1
                    for player, session in sessions.items():
                        session.step(seen[player], reward=rewards[player], discount=0.0 if caught else 1.0)
                caught_in += caught
    print(f"{steps} steps, {given.games} games, the chaser won {caught_in}")


if __name__ == "__main__":
    main()
