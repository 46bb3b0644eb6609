"""Writers that are killed. Fork servers fork them: a fresh process would import TensorFlow for seconds."""

import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from saver.artifact.files import hash_files, write_json
from saver.artifact.publishing import publish, publish_over, staged_folder

Job = Callable[..., None]


class ForkServer:
    """One that forks a writer at a time. `talk` leads to the fork_server, and to the writer while there is one."""

    def __init__(self, talk: Connection) -> None:
        self.talk = talk

    def start(self, job: Job, *arguments: Any) -> int:
        """Forks a writer that does `job(talk, *arguments)`; its process id."""
        self.talk.send((job, arguments))
        pid: int = self.talk.recv()
        return pid

    def status(self) -> int:
        """Waits for the writer's end: its exit status, or the negative number of its signal."""
        status: int = self.talk.recv()
        return status


@contextmanager
def fork_servers(count: int, *modules: str) -> Iterator[list[ForkServer]]:
    """`count` processes that have imported `modules` (once, in the first) and started no thread: they may fork."""
    context = get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    process = context.Process(target=_first_fork_server, args=([theirs for _, theirs in pipes], modules), daemon=True)
    process.start()
    for _, theirs in pipes:
        theirs.close()
    try:
        yield [ForkServer(ours) for ours, _ in pipes]
    finally:
        for ours, _ in pipes:
            ours.close()
        process.join()


def _first_fork_server(talks: list[Connection], modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)
    for talk in talks[1:]:
        if os.fork() == 0:
            _fork_server(talk)
            os._exit(0)
    _fork_server(talks[0])


def _fork_server(talk: Connection) -> None:
    while True:
        try:
            job, arguments = talk.recv()
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            talk.send(os.getpid())
            try:
                job(talk, *arguments)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError):  # the test has failed and gone
            talk.send(status)


class Steps:
    """Counts what the process asks of the file system, and kills it at one of those moments.

    A kill between two such calls finds the same disk as one at the second call: to die at each in turn is to die
    everywhere, but for the inside of TensorFlow's own writing.
    """

    _EVENTS = (
        "open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.scandir", "os.listdir", "fcntl.flock",
        "ctypes.dlsym",  # what exchanges two folders comes between this and the next
    )  # fmt: skip

    def __init__(self) -> None:
        self.count = 0
        self.last: int | None = None
        self.counting = False
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, _: Any) -> None:
        if self.counting and event in self._EVENTS:
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1


# Jobs without TensorFlow. Each dies at step `last`, or sends how many steps there are.


def write_version(folder: Path, version: int, manifest: str) -> None:
    """A folder all of whose files hold its version; what files there are depends on it."""
    names = ["saved_model.pb", "fingerprint.pb", "variables/index", f"variables/data-{version % 2}", "serving/pb"]
    names += ["assets/vocabulary", "serving/variables/index"] if version % 2 else []
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(str(version))
    (folder / "same").write_text("same in all versions")
    files = [path for path in folder.rglob("*") if path.is_file()]
    write_json(folder / manifest, {"format": 1, "version": version, "files": hash_files(folder, files)})


def replace_export(talk: Connection, folder: Path, version: int, last: int | None) -> None:
    with _counted(talk, last), staged_folder(folder) as staged:
        write_version(staged, version, "policy.json")
        publish_over(staged, folder)


def replace_checkpoint(talk: Connection, folder: Path, version: int, last: int | None) -> None:
    with _counted(talk, last), staged_folder(folder) as staged:
        write_version(staged, version, "checkpoint.json")
        publish(staged, folder)


def replace_checkpoint_in_two_steps(talk: Connection, folder: Path, version: int, last: int | None) -> None:
    import saver.artifact.publishing

    saver.artifact.publishing._exchange = lambda *_: False
    replace_checkpoint(talk, folder, version, last)


def prune(talk: Connection, newest: Path, keep_last: int, last: int | None) -> None:
    from saver.artifact import prune_checkpoints

    with _counted(talk, last):
        prune_checkpoints(newest, keep_last)


@contextmanager
def _counted(talk: Connection, last: int | None) -> Iterator[None]:
    os.fsync = lambda _: None  # slow, and nothing that another process could see
    steps = Steps()
    steps.last = last
    steps.counting = True
    yield
    steps.counting = False
    talk.send(steps.count)


# Jobs with TensorFlow: one save that is let alone, then one that is killed, of weights that all equal the version.
# They send how long the first took in seconds and how many steps publishing had, and receive the step to die at;
# without one they are killed from outside.


def save_export(talk: Connection, folder: Path, version: int) -> None:
    live = Live()
    live.train(version)
    _save_and_die(talk, live, lambda: live.saver.save(folder, verify=False))


def overwrite_checkpoint(talk: Connection, folder: Path, version: int) -> None:
    live = Live()
    live.train(version)
    live.saver.save_checkpoint(folder)  # the first one takes much longer
    _save_and_die(talk, live, lambda: live.saver.save_checkpoint(folder))


def add_checkpoints(talk: Connection, parent: Path, version: int) -> None:
    live = Live()
    live.train(version)
    live.saver.save_checkpoint(parent / f"{version - 1:010}")
    _save_and_die(talk, live, lambda: live.saver.save_checkpoint(parent / f"{live.version:010}", keep_last=3))


def save_on_a_full_disk(talk: Connection, method: str, folder: Path, limit: int) -> None:
    """Saves version 1, then 2 where no file may grow beyond `limit` bytes, then 2 again; sends each outcome.

    A write beyond the limit fails with EFBIG, in the same places as with ENOSPC on a full disk.
    """
    live = Live(units=300)
    save = getattr(live.saver, method)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, highest = resource.getrlimit(resource.RLIMIT_FSIZE)
    for version, size in ((1, highest), (2, limit), (2, highest)):
        live.train(version)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, highest))
        error = None
        try:
            save(folder)
        except Exception as caught:
            error = caught
        resource.setrlimit(resource.RLIMIT_FSIZE, (highest, highest))
        talk.send(None if error is None else ([kind.__name__ for kind in type(error).__mro__], str(error)))
        talk.recv()


class Live:
    """A policy being trained, and its saver."""

    def __init__(self, units: int = 3) -> None:
        import tensorflow as tf

        from saver import PolicySaver
        from tests.support import saver_policies as policies

        self._step = tf.Variable(0, dtype=tf.int64)
        self._policy = policies.q(units=units)
        self.saver = PolicySaver(self._policy, train_step=self._step)
        self.version = 0

    def train(self, version: int) -> None:
        self.version = version
        for variable in self._policy.variables():
            variable.assign(0 * variable + version)
        self._step.assign(version)


def _save_and_die(talk: Connection, live: Live, save: Callable[[], None]) -> None:
    steps = Steps()
    _count_from_publishing(steps)
    start = time.perf_counter()
    save()
    took_s = time.perf_counter() - start
    steps.counting = False
    live.train(live.version + 1)
    talk.send((took_s, steps.count))
    steps.count, steps.last = 0, talk.recv()
    talk.send("going")
    save()
    steps.counting = False
    if steps.last is not None:  # there were fewer steps this time
        os.kill(os.getpid(), signal.SIGKILL)
    talk.recv()  # waits for the end


def _count_from_publishing(steps: Steps) -> None:
    import saver.policy_saver

    def counted(function: Callable[..., None]) -> Callable[..., None]:
        def publishes(*arguments: Any) -> None:
            steps.counting = True
            function(*arguments)

        return publishes

    for name in ("publish", "publish_over"):
        setattr(saver.policy_saver, name, counted(getattr(saver.policy_saver, name)))
