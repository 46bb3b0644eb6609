"""What people write: FastAPI, pydantic, and the SavedModel's signature. `python -m bench.serving.naive PORT FOLDER`."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tf_agents.policies  # noqa: F401 — the export names types that this registers
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

TIME_STEP = {"arg_0_step_type": (1, np.int32), "arg_0_reward": (0, np.float32), "arg_0_discount": (1, np.float32)}


class Step(BaseModel):
    """One observation, or a batch of them; with the policy state where the policy has one."""

    observation: list[Any]
    policy_state: list[list[float]] | None = None


class Action(BaseModel):
    """The same of the answer."""

    action: int | list[int]
    policy_state: list[list[float]] | None = None
    version: str = "0000000700"
    train_step: int = 700


def application(folder: str) -> FastAPI:
    """One route over the export in `folder`."""
    app = FastAPI()
    model = tf.saved_model.load(folder)
    act = model.signatures["action"]
    observation = act.structured_input_signature[1]["arg_0_observation"]

    @app.post("/action")
    def action(step: Step) -> Action:
        array = np.asarray(step.observation, observation.dtype.as_numpy_dtype)
        single = array.ndim < len(observation.shape)
        if single:
            array = array[None]
        inputs = {name: np.full(len(array), value, dtype) for name, (value, dtype) in TIME_STEP.items()}
        for number, state in enumerate(step.policy_state or []):
            inputs[f"arg_1_{number}"] = np.asarray([state], np.float32)
        outputs = act(**{name: tf.constant(value) for name, value in {**inputs, "arg_0_observation": array}.items()})
        answer = Action(action=outputs["action"].numpy().tolist()[0 if single else slice(None)])
        if step.policy_state:
            answer.policy_state = [outputs[f"state/{number}"].numpy()[0].tolist() for number in range(2)]
        return answer

    return app


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[2]), port=int(sys.argv[1]), access_log=False, log_level="warning")
