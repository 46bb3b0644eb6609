"""What is asked, by how many callers, and of whom: one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby

from bench import BenchError
from bench.serving import exports, payloads


class Kind(StrEnum):
    """How a competitor is started: see `launch.py`."""

    ECHO = "echo"
    RAW = "raw"
    NGINX = "nginx"
    NAIVE = "naive"
    OURS = "ours"
    IN_PROCESS = "in-process"
    PEER = "peer"


@dataclass(frozen=True)
class Competitor:
    """One that answers. Of ours: `policies` are loaded; requests go to all of them by turns (`spread`), or to one.

    `swapped`: a checkpoint is published every SWAP_EVERY_S while it is measured. `before`: it runs from the source of
    an earlier revision. `protocol`: of `payloads.PROTOCOLS`; "" is the own one. `traced`: the share of the requests
    of which traces are sent, to a collector on this machine. `pages`: so many of the console are open while it is
    measured.
    """

    name: str
    kind: Kind
    engine: str = ""
    workers: int = 1
    policies: int = 1
    spread: bool = False
    swapped: bool = False
    before: bool = False
    protocol: str = ""
    traced: float = 0
    pages: int = 0


@dataclass(frozen=True)
class Scenario:
    """`clients` callers send `payload` to servers of `policy`, each again as soon as it is answered.

    `overload`: then twice as many requests as can be answered, whatever becomes of them. `longer`: its turns take so
    many times as long as others.
    """

    name: str
    title: str
    policy: str
    payload: str
    clients: int
    competitors: tuple[Competitor, ...]
    overload: bool = False
    longer: float = 1


SWAP_EVERY_S = 2.0
ECHO = Competitor("echo", Kind.ECHO)
RAW = Competitor("raw", Kind.RAW)
NGINX = Competitor("nginx", Kind.NGINX)
NAIVE = Competitor("naive", Kind.NAIVE)
IN_PROCESS = Competitor("in-process", Kind.IN_PROCESS)
LITERT = Competitor("litert-1", Kind.OURS, "litert")
LITERT_2 = Competitor("litert-2", Kind.OURS, "litert", workers=2)
TENSORFLOW = Competitor("tensorflow-1", Kind.OURS, "tensorflow")
TENSORFLOW_2 = Competitor("tensorflow-2", Kind.OURS, "tensorflow", workers=2)
TEN = replace(LITERT, name="litert-10-policies", policies=10)
HUNDRED = replace(LITERT, name="litert-100-policies", policies=exports.HOW_MANY)
SPREAD = replace(HUNDRED, name="litert-100-spread", spread=True)
SWAPPED = replace(LITERT, name="litert-1-swapped", swapped=True)
TENSORFLOW_SWAPPED = replace(TENSORFLOW, name="tensorflow-1-swapped", swapped=True)
TRACED = replace(LITERT, name="litert-1-traced", traced=0.01)
PAGES = tuple(replace(LITERT, name=f"litert-1-pages-{pages}", pages=pages) for pages in (1, 10))
TWO_HUNDRED = replace(LITERT, name="litert-200-policies", policies=2 * exports.HOW_MANY)
PAGES_200 = tuple(replace(TWO_HUNDRED, name=f"litert-200-pages-{pages}", pages=pages) for pages in (1, 10))

GRPC_ECHO = Competitor("grpc-echo", Kind.ECHO, protocol=payloads.GRPC)
OTHER_PROTOCOLS = tuple(replace(LITERT, name=f"litert-1-{name}", protocol=name) for name in payloads.PROTOCOLS)

_ONE = (ECHO, NAIVE, LITERT, LITERT_2, TENSORFLOW, TENSORFLOW_2)
# What any server on this machine costs that answers a constant: not ours to reach, but to see how far it is.
_FLOOR = (RAW, NGINX)
_PLAIN = (ECHO, NAIVE, LITERT, TENSORFLOW)
# Servers with the small policy take peers beside them.
_WITH_PEERS = ("one-row-1", "one-row-32", "rows-64")
# What a request waits for at most in the overloaded server: so many calls of 20 ms.
QUEUE_LIMIT = 16

SCENARIOS = (
    Scenario("one-row-1", "one row, 1 client", exports.SMALL, payloads.ROW, 1, (*_FLOOR, *_ONE)),
    Scenario("one-row-8", "one row, 8 clients", exports.SMALL, payloads.ROW, 8, _PLAIN),
    Scenario("one-row-32", "one row, 32 clients", exports.SMALL, payloads.ROW, 32, (*_FLOOR, *_ONE)),
    Scenario(
        "protocols-32",
        "one row, 32 clients, by protocol",
        exports.SMALL,
        payloads.ROW,
        32,
        (LITERT, *OTHER_PROTOCOLS, GRPC_ECHO),
    ),
    Scenario("traces", "one row, 32 clients, 1 % traced", exports.SMALL, payloads.ROW, 32, (LITERT, TRACED)),
    Scenario("console", "one row, 32 clients, pages open", exports.SMALL, payloads.ROW, 32, (LITERT, *PAGES)),
    Scenario("one-row-256", "one row, 256 clients", exports.SMALL, payloads.ROW, 256, _ONE),
    Scenario("one-row-512", "one row, 512 clients", exports.SMALL, payloads.ROW, 512, (ECHO, LITERT, TENSORFLOW)),
    Scenario("rows-64", "64 rows, 8 clients", exports.SMALL, payloads.ROWS, 8, _PLAIN),
    Scenario("recurrent-32", "LSTM, 32 clients", exports.RECURRENT, payloads.STATE, 32, _PLAIN),
    Scenario("images-json-2", "8 images as JSON, 2 clients", exports.IMAGE, payloads.IMAGES, 2, _PLAIN),
    Scenario("images-json-4", "8 images as JSON, 4 clients", exports.IMAGE, payloads.IMAGES, 4, (ECHO, LITERT)),
    Scenario(
        "images-binary-2",
        "8 images, binary, 2 clients",
        exports.IMAGE,
        payloads.BINARY_IMAGES,
        2,
        (ECHO, IN_PROCESS, LITERT, TENSORFLOW),
    ),
    Scenario(
        "images-binary-4",
        "8 images, binary, 4 clients",
        exports.IMAGE,
        payloads.BINARY_IMAGES,
        4,
        (ECHO, IN_PROCESS, LITERT),
    ),
    Scenario(
        "policies",
        "1, 10 and 100 policies, 32 clients",
        exports.MANY,
        payloads.ROW,
        32,
        (ECHO, LITERT, TEN, HUNDRED, SPREAD),
    ),
    Scenario(
        "console-200",
        "200 policies, 32 clients, pages open",
        exports.MANY,
        payloads.ROW,
        32,
        (TWO_HUNDRED, *PAGES_200),
    ),
    Scenario(
        "swaps",
        "one row, 32 clients, swaps",
        exports.SWAPPED,
        payloads.ROW,
        32,
        (ECHO, LITERT, SWAPPED, TENSORFLOW_SWAPPED),
        longer=2,
    ),
    Scenario(
        "overload",
        "a call of 20 ms, twice too many",
        exports.SLOW,
        payloads.ROW,
        8,
        (LITERT,),
        overload=True,
        longer=5,
    ),
)
# How soon a server with a warm cache answers is measured apart: see starts.py.
START = "start"
NAMES = (*(scenario.name for scenario in SCENARIOS), START)


def stages(
    names: Sequence[str], only: Sequence[str], peers: Sequence[Competitor] = (), with_before: bool = False
) -> list[list[Scenario]]:
    """The scenarios of these `names`, those together whose servers are the same ones.

    Args:
      names: of scenarios; all where empty.
      only: the names of the competitors that take part; all where empty.
      peers: who else takes part, where it can.
      with_before: whether each of our servers has one of an earlier revision beside it.

    Raises:
      BenchError: somebody who takes part nowhere.
    """
    wanted = []
    for scenario in SCENARIOS:
        if names and scenario.name not in names:
            continue
        all_of_it = scenario.competitors + (tuple(peers) if scenario.name in _WITH_PEERS else ())
        competitors = tuple(one for one in all_of_it if not only or one.name in only)
        if with_before:
            competitors = tuple(each for one in competitors for each in _with_before(one))
        if competitors:
            wanted.append(replace(scenario, competitors=competitors))
    unknown = set(only) - {one.name for scenario in wanted for one in scenario.competitors}
    if unknown:
        raise BenchError(f"{', '.join(sorted(unknown))} takes part in none of these scenarios")
    return [list(group) for _, group in groupby(wanted, key=lambda scenario: scenario.policy)]


def name_before(name: str) -> str:
    """The name of a competitor's twin from an earlier revision."""
    return f"{name}-before"


def _with_before(competitor: Competitor) -> tuple[Competitor, ...]:
    if competitor.kind is not Kind.OURS:
        return (competitor,)
    return competitor, replace(competitor, name=name_before(competitor.name), before=True)
