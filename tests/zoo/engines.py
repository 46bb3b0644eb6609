"""Exports of the zoo as a server runs them: prepared by the builder, loaded as a worker loads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.artifacts.bundle import Bundle, Graph
from app.builder.builder import Builder
from app.builder.open_export import open_export
from app.engine.base import Engine
from app.errors import SwapRefused
from app.versions.loader import BundleLoader
from saver.artifact import LOG_PROB
from tests.zoo.exported import Exported, Flat

REFUSED = "none"

# What the saver's issue lists, each item once, and the kinds of the zoo that it means.
NAMED = {
    "Q": ("q", "q-log-probability"),
    "Q, greedy": ("dqn-greedy", "ddqn-greedy"),
    "Q, epsilon-greedy": ("dqn-epsilon", "dqn-epsilon-callable", "dqn-epsilon-variable"),
    "Q, Boltzmann": ("dqn-boltzmann", "boltzmann-callable"),
    "categorical Q (C51)": ("c51", "c51-greedy", "c51-epsilon"),
    "PPO, continuous": ("ppo", "ppo-actor-network"),
    "PPO, discrete": ("ppo-discrete", "ppo-discrete-greedy"),
    "PPO, normalised observations": ("ppo-normalised", "ppo-normalised-greedy"),
    "PPO, collect": ("ppo-sampled", "ppo-values", "ppo-kl"),
    "PPO, greedy": ("ppo-greedy",),
    "REINFORCE": ("reinforce", "reinforce-greedy", "reinforce-discrete"),
    "SAC": ("sac", "sac-greedy"),
    "DDPG": ("ddpg",),
    "TD3": ("td3",),
    "Ornstein-Uhlenbeck noise": ("ddpg-ou-noise", "ou-noise"),
    "Gaussian noise": ("td3-gaussian-noise", "gaussian-noise"),
    "behavioural cloning": (
        "cloning-discrete",
        "cloning-discrete-epsilon",
        "cloning-continuous",
        "cloning-continuous-collect",
    ),
    "LSTM": ("dqn-lstm-greedy", "dqn-lstm-epsilon", "reinforce-lstm", "ppo-lstm", "ppo-lstm-greedy", "ddpg-lstm"),
    "stacked recurrent networks": ("dqn-lstm-stacked", "actor-lstm-stacked-greedy"),
    "dict observations": ("observation-dict",),
    "tuple observations": ("observation-tuple",),
    "image observations": ("observation-image", "observation-image-actor", "observation-image-c51"),
    "string observations": ("observation-word", "observation-words"),
    "nested actions": ("action-nested", "action-nested-greedy", "action-nested-ppo", "action-nested-lstm"),
    "multi-dimensional actions": ("action-matrix", "action-multi-discrete", "action-multi-discrete-matrix"),
    "action masks": ("dqn-masked-greedy", "dqn-masked-epsilon", "q-masked", "actor-masked", "q-lstm-masked"),
    "log-probability as policy info": ("q-log-probability", "dqn-epsilon-log-probability"),
    "bandit predictions as policy info": ("neural-greedy", "neural-boltzmann", "neural-falcon"),
    "LinUCB": ("lin-ucb",),
    "linear Thompson sampling": ("linear-thompson",),
    "neural Thompson sampling": ("dropout-thompson",),
    "mixtures": ("static-mixture", "exp3-mixture"),
    "per-arm features": ("neural-greedy-per-arm", "neural-greedy-dot-product", "neural-greedy-some-arms"),
    "random": ("random-discrete", "random-continuous", "random-nested"),
    "fixed": ("fixed", "fixed-nested"),
    "scripted": ("scripted",),
    "fixed batch size": ("export-fixed-batch", "export-fixed-batch-lstm", "export-fixed-batch-sampled"),
    "no nest paths": ("export-no-nest-paths", "export-no-nest-paths-nested", "export-no-nest-paths-lstm"),
    "seeded": ("export-seeded",),
}


def compiled_share(engines: Mapping[str, str]) -> float:
    """The share of the named items of which every kind is compiled.

    Args:
      engines: by the name of the kind.
    """
    return sum(all(engines[kind] == "litert" for kind in kinds) for kinds in NAMED.values()) / len(NAMED)


def prepare(exported: Exported, folder: Path) -> tuple[Graph, Bundle]:
    """What the builder hands over.

    Raises:
      SwapRefused: it would serve nothing.
    """
    graph = open_export(exported.folder, folder / "graphs")
    return graph, Builder(graph).prepare(None, graph.digest, folder / "versions" / graph.digest).bundle


def engine_of(exported: Exported, folder: Path) -> tuple[str, str]:
    """The engine that the kind gets, and why."""
    try:
        bundle = prepare(exported, folder)[1]
    except SwapRefused as refusal:
        return REFUSED, str(refusal)
    return bundle.engine, bundle.engine_reason


@dataclass(frozen=True)
class Served:
    """A kind beside the engine that serves it."""

    exported: Exported
    graph: Graph
    bundle: Bundle
    engine: Engine

    @classmethod
    def of(cls, exported: Exported, folder: Path) -> "Served":
        """Raises SwapRefused."""
        graph, bundle = prepare(exported, folder)
        return cls(exported, graph, bundle, BundleLoader().load(graph, bundle))

    @property
    def kind(self) -> Any:
        """See `Serving` in test_serving.py, in whose place this can stand."""
        return self.exported.kind

    @property
    def info(self) -> Any:
        """What there is beside `action`; the server has no use for `log_prob` alone."""
        return self.graph.serving

    def __contains__(self, function: str) -> bool:
        return function in self.graph.serving.signatures and function != LOG_PROB

    def call(self, function: str, **flat: Any) -> dict[str, tf.Tensor]:
        """One of its functions."""
        return {name: tf.constant(array) for name, array in self.engine.run(function, flat).items()}

    def drawn(self, inputs: Flat, row: int, rows: int, calls: int) -> Flat:
        """Answers of `action` to one row of the inputs, [calls * rows, …]."""
        repeated = {name: np.repeat(array[row : row + 1], rows, axis=0) for name, array in inputs.items()}
        answers = [self.engine.run("action", repeated) for _ in range(calls)]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
