"""Builds the package, as pyproject.toml says; with COMPILE_MODULES=1 in the environment parts of it are compiled.

mypyc turns the modules that most requests pass into C. They are the same source, and what is left is interpreted, as
all of it is without the variable. It needs a C compiler, and in the environment mypy beside what the server imports, so
that `pip` takes it with `--no-build-isolation` alone. `docs/how-to/compile.md` says more.
"""

import os

from setuptools import setup

# Left out: what FastAPI reads the signatures of; classes that are derived from elsewhere; msgspec's that are decoded,
# whose types mypyc does not keep. docs/decisions/0032-compiled-modules.md says what each group brings.
COMPILED = [
    "app/api/known_head.py",
    "app/api/request_cycle.py",
    "app/batching/batch.py",
    "app/batching/batcher.py",
    "app/batching/busy_poll.py",
    "app/batching/call_times.py",
    "app/batching/compute.py",
    "app/batching/cork.py",
    "app/batching/deadlines.py",
    "app/batching/delivery.py",
    "app/batching/failures.py",
    "app/batching/rule.py",
    "app/batching/turns.py",
    "app/engine/litert.py",
    "app/inference/request_parser.py",
    "app/inference/response.py",
    "app/inference/service.py",
    "app/inputs/bounds.py",
    "app/inputs/defaults.py",
    "app/inputs/skeletons.py",
    "app/inputs/typed.py",
    "app/inputs/typed_binary.py",
    "app/inputs/typed_fields.py",
    "app/local_histogram.py",
    "app/versions/active.py",
    "app/versions/lease.py",
]


def extensions() -> list[object]:
    """Returns what is to be compiled; it is C by then."""
    if os.environ.get("COMPILE_MODULES") != "1":
        return []
    from mypyc.build import mypycify

    return mypycify([*COMPILED, "--follow-imports=silent"], opt_level="3", multi_file=True, group_name="policy_server")


if __name__ == "__main__":
    setup(ext_modules=extensions())
