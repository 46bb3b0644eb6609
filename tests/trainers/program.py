"""What a trainer does, in a Python and with libraries of its own: exports, and what the live policies answer.

`python tests/trainers/program.py FOLDER` leaves FOLDER/NAME, an export with a checkpoint of other weights in
FOLDER/NAME-next, and FOLDER/answers.json: of the other weights, by policy. It runs in Python 3.9.
"""

import json
import sys
from pathlib import Path

from saver import PolicySaver  # first: TensorFlow reads the environment when it is imported

import numpy as np  # isort: skip
import tensorflow as tf  # isort: skip
from tf_agents.networks import actor_distribution_network  # isort: skip
from tf_agents.policies import actor_policy, greedy_policy  # isort: skip
from tf_agents.trajectories import time_step as ts  # isort: skip

from tests.support import saver_policies as policies

ROWS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def arm():
    action = policies.NESTED_ACTION["move"]
    network = actor_distribution_network.ActorDistributionNetwork(policies.CARTPOLE, action, fc_layer_params=(8,))
    return actor_policy.ActorPolicy(ts.time_step_spec(policies.CARTPOLE), action, network)


def makers():
    return {
        "q": (policies.q(), {}),
        "arm": (arm(), {}),
        "recurrent": (policies.q_lstm(), {}),
        "fixed": (policies.q(), {"batch_size": 3}),
        "sensors": (policies.q(), {"input_fn_and_spec": policies.input_fn_and_spec()}),
        "described": (policies.q(), {"metadata": {"epsilon": tf.Variable(0.5), "seen": tf.Variable(7)}}),
    }


def main(folder: Path) -> None:
    answers = {}
    for name, (policy, options) in makers().items():
        step = tf.Variable(1, dtype=tf.int64)
        saver = PolicySaver(policy, train_step=step, **options)
        saver.save(folder / name)
        for variable in policy.variables():
            variable.assign(variable * 1.5 + 0.25)
        step.assign(2)
        saver.save_checkpoint(folder / f"{name}-next")
        answers[name] = answered(policy)
    (folder / "answers.json").write_text(json.dumps(answers))


def answered(policy):
    """The greedy actions of the live policy at the beginning of three episodes, and its distributions' parameters."""
    time_step = ts.restart(tf.constant(ROWS), batch_size=3)
    state = policy.get_initial_state(3)
    action = greedy_policy.GreedyPolicy(policy).action(time_step, state).action
    distribution = policy.distribution(time_step, state).action
    numbers = distribution.logits_parameter() if hasattr(distribution, "logits_parameter") else distribution.mean()
    return {"action": action.numpy().tolist(), "numbers": numbers.numpy().tolist()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
