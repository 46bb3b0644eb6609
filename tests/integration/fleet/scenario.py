"""What the tests of fleets share: three members, of which two share a folder and one has its own."""

import shutil
from pathlib import Path

import httpx

from tests.integration.swaps.test_many_swaps import tar_of
from tests.support.fleet import Fleet, Member, Plan
from tests.support.policies import NumberPolicy, NumberTrainer

MEMBERS = 3
# Floats between the two ends of the weights: files that take many pieces to send.
FILLER = 200_000


class Trainer:
    """Publishes versions of a policy whose actions show its weights, into the folder of any member."""

    def __init__(self, place: Path, filler: int = FILLER, kind: type[NumberPolicy] = NumberPolicy) -> None:
        self.place = place
        self._trainer = NumberTrainer(place / "shared", filler=filler, kind_of_policy=kind)
        shutil.copytree(place / "shared", place / "own")
        self.last = 0

    def folder(self, number: int) -> Path:
        """That of a member: the last one's is its own."""
        return self.place / ("own" if number == MEMBERS - 1 else "shared")

    def plan(self, policy: str = "p", **more: object) -> Plan:
        """Of all members."""
        folders = [{policy: self.folder(number)} for number in range(MEMBERS)]
        return Plan(folders, self.place / "state", **more)  # type: ignore[arg-type]

    def publish(self, number: int = 0, name: str | None = None) -> str:
        """Writes the next version into the folder of a member; returns its name."""
        self.last += 1
        return self._trainer.publish(self.last, name, self.folder(number) / "checkpoints")

    def forget(self, kept: int = 5) -> None:
        """Deletes all checkpoints but the newest."""
        for folder in {self.folder(number) / "checkpoints" for number in range(MEMBERS)}:
            for path in sorted(folder.glob("[0-9]*"))[:-kept]:
                shutil.rmtree(path)

    def tar(self) -> tuple[str, bytes]:
        """The next version's name, and what an upload of it sends."""
        self.last += 1
        sent = self.place / "sent"
        self._trainer.publish(self.last, "sent", self.place)
        return f"{self.last:010d}", tar_of(sent)


def upload(member: Member, trainer: Trainer) -> httpx.Response:
    """Sends the next version to a member, which has it serve."""
    name, tar = trainer.tar()
    return member.server.admin.put(f"/admin/policies/p/checkpoints/{name}?activate=true", content=tar)


def reload_next(fleet: Fleet, trainer: Trainer, at: int = 0) -> int:
    """Publishes the next version in the folder of a member, and has it reloaded there."""
    name = trainer.publish(at)
    step = fleet.reload(at, checkpoint=name)
    assert step == trainer.last
    return step
