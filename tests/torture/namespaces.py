"""A worker on a host of its own: in a network namespace, at the other end of a link that fails as links do.

::

    this host                                         the namespace
    ---------                                         -------------
    api-0, worker-0 (the registry's)                  worker-1
    near, 10.x.y.1/30 <------------- veth ----------> far, 10.x.y.2/30

The wires of ``wires.py`` end each TCP connection at themselves; here the kernels' own TCP meets the fault, retransmits
and backs off, and nobody is told by a reset.

    everything   the far end is taken down
    requests     the near end sends to a hardware address that nobody has; what comes back arrives
    replies      likewise, the far end; requests arrive, and so does what opens a connection

A wrong neighbour loses packets without telling the sender, in one direction, and needs neither netfilter nor a queueing
discipline, which not every kernel has.

A namespace needs root. Everything made here has ``tallyslice-`` or ``ts`` and a random number in its name and is gone
afterwards, unless the test run was killed: then ``ip netns del`` is all that is left to do.
"""

from __future__ import annotations

import contextlib
import enum
import ipaddress
import json
import os
import random
import secrets
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cluster import Cluster
from tests.torture.checker import complaints, problems_on_disk, settled_answers
from tests.torture.crowd import SLICE_WINDOW, Crowd, events
from tests.torture.ledger import KEYED, TYPES
from tests.torture.network import CLEAR_SECONDS, RATE, Fault, Stage, summed, too_slow
from tests.torture.rounds import Round

OURS = (ipaddress.IPv4Network("10.0.0.0/8"), ipaddress.IPv4Network("172.16.0.0/12"))
NOBODY = "02:00:00:00:00:01"  # a locally administered address; the kernel draws those of the link
COMMAND_SECONDS = 10.0
LAST_RESORT = "4096"  # a metric worse than any other route's
IN_CI_SECONDS = 4.6  # as those of network.py: longer than the 3 s after which a worker is away
BY_HAND_SECONDS = 12.0
WARNING = "listening_beyond_loopback_without_internal_token"


class Refused(Exception):
    """This machine does not let us have a namespace; says what was missing, or what the kernel answered."""


class Loss(enum.Enum):
    """What gets lost on the link."""

    EVERYTHING = "link down"
    REQUESTS = "requests lost"
    REPLIES = "replies lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of the link: in which namespace ("": this host's), by which name, with which address."""

    namespace: str
    name: str
    address: ipaddress.IPv4Address


class Link:
    """A context manager: the namespace and the link to it are there inside.

    Raises:
        Refused: on entering, where it cannot be had.
    """

    def __init__(self) -> None:
        number = secrets.token_hex(4)
        self.namespace = f"tallyslice-{number}"
        self._names = f"ts{number}n", f"ts{number}f"  # at most 15 characters
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise Refused("network namespaces need root")
        if shutil.which("ip") is None:
            raise Refused("network namespaces need ip, of the package iproute2")
        with ExitStack() as stack:
            try:
                self._make(stack)
            except subprocess.CalledProcessError as error:
                raise Refused(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _make(self, stack: ExitStack) -> None:
        net = _free_network()
        near, far = net.hosts()
        self.near = End(namespace="", name=self._names[0], address=near)
        self.far = End(namespace=self.namespace, name=self._names[1], address=far)
        _ip("netns", "add", self.namespace)
        stack.callback(_ip, "netns", "del", self.namespace)
        # Whatever becomes of the link, nothing for its addresses ever leaves by the default route.
        guard = ("blackhole", str(net), "metric", LAST_RESORT)
        _ip("route", "add", *guard)
        stack.callback(_ip, "route", "del", *guard)
        _ip("link", "add", self.near.name, "type", "veth", "peer", "name", self.far.name, "netns", self.namespace)
        stack.callback(_ip, "link", "del", self.near.name)
        for end in (self.near, self.far):
            _at(end, "addr", "add", f"{end.address}/{net.prefixlen}", "dev", end.name)
            _at(end, "link", "set", end.name, "up")
        _at(self.far, "link", "set", "lo", "up")

    @property
    def inside(self) -> tuple[str, ...]:
        """What the command line of a process begins with, to be in the namespace."""
        return "ip", "netns", "exec", self.namespace

    @contextlib.contextmanager
    def loses(self, loss: Loss) -> Iterator[None]:
        """It does so inside."""
        if loss is Loss.EVERYTHING:
            # Never the near end: its routes would go with it.
            at = self.far
            begin, end = (["link", "set", at.name, how] for how in ("down", "up"))
        else:
            at, to = (self.near, self.far) if loss is Loss.REQUESTS else (self.far, self.near)
            neighbour = [str(to.address), "dev", at.name]
            begin = ["neigh", "replace", *neighbour, "lladdr", NOBODY, "nud", "permanent"]
            end = ["neigh", "del", *neighbour]
        _at(at, *begin)
        try:
            yield
        finally:
            _at(at, *end)

    def astray(self) -> Mapping[Loss, int]:
        """How many packets arrived so far with a hardware address that nobody has, by what they were."""
        arrived = {Loss.REQUESTS: self.far, Loss.REPLIES: self.near}
        return {loss: _received(end)["otherhost"] for loss, end in arrived.items()}


async def namespace_round(
    folder: Path, *, seed: int, seconds: float = IN_CI_SECONDS, progress: Callable[[str], None] = lambda text: None
) -> Round:
    """Every loss once, in any order, each for so many seconds, under a load of events with an id.

    Raises:
        Refused: this machine does not let us have a namespace.
    """
    begun = time.monotonic()
    rng = random.Random(seed)
    problems: list[str] = []
    notes: list[str] = []
    done = Counter[str]()
    whole_seconds, whole_acknowledged = 0.0, 0
    losses = list(Loss)
    rng.shuffle(losses)
    with Link() as link:
        async with _cluster(folder, link) as cluster:
            posts = events(rng, window=lambda _: done.total() * SLICE_WINDOW)
            keyed = (post for post in posts if post.type == KEYED)
            async with Crowd(keyed, cluster.ports, rng=rng, keep_times=True) as crowd:
                stage = Stage(cluster, {}, crowd)
                for loss in losses:
                    progress(loss.value)
                    before, at = crowd.taken, time.monotonic()
                    await crowd.pour(seconds=CLEAR_SECONDS, rate=RATE)
                    await crowd.finished()
                    whole_seconds += time.monotonic() - at
                    whole_acknowledged += crowd.taken - before
                    crowd.successes.clear()
                    before_it = link.astray()
                    with link.loses(loss):
                        await crowd.pour(seconds=seconds, rate=RATE)
                        astray = {way: count - before_it[way] for way, count in link.astray().items()}
                    await crowd.finished()
                    try:
                        healed = f"well {await stage.healed():.1f} s after it"
                    except AssertionError as error:
                        healed = "never well"
                        problems.append(f"{loss.value}: does not heal: {error}")
                    _, wrong = await settled_answers(cluster, crowd.ledger)
                    fault = Fault(name=loss.value, seconds=seconds, takes_away=True)
                    problems += [f"{loss.value}: {text}" for text in [*wrong, *too_slow(fault, crowd.successes)]]
                    problems += [f"{loss.value}: {text}" for text in _astray_wrongly(loss, astray)]
                    lost = f"; {astray[loss]:,} packets lost" if loss in astray else ""
                    notes.append(f"{loss.value:24} {seconds:5.1f} s: {summed(crowd.successes)}; {healed}{lost}")
                    done[loss.value] += 1
                shown, wrong = await settled_answers(cluster, crowd.ledger)
                problems += wrong + crowd.surprises
    problems += complaints(cluster) + problems_on_disk(cluster, crowd.ledger, shown)
    problems += [f"{node.name}: {WARNING}" for node in cluster.nodes if WARNING in node.log_text()]
    totals = crowd.ledger.total()
    if totals["unknown"] or totals["acknowledged"] != crowd.drawn:
        problems.append(f"{crowd.drawn} events with an id were sent until success, but {dict(totals)}")
    return Round(
        seed=seed,
        seconds=time.monotonic() - begun,
        faults=dict(done),
        sent=crowd.drawn,
        attempts=dict(crowd.attempts),
        acknowledged=totals["acknowledged"],
        unknown=totals["unknown"],
        counted=sum(Counter(answer["events"]).total() for answer in shown.values()),
        users=sum(answer["unique_users"] for answer in shown.values()),
        whole_seconds=whole_seconds,
        whole_acknowledged=whole_acknowledged,
        problems=problems,
        notes=notes,
    )


def _cluster(folder: Path, link: Link) -> Cluster:
    """One whose worker-1 is in the namespace; to be entered."""
    cluster = Cluster(
        folder,
        workers=2,
        routing={0: ["0", "1"]},
        cache_ttl_seconds=0.3,
        event_types=TYPES,
        secret_file="secret.key",
        internal_token_file="token",
    )
    # Nodes on other hosts would not find a secret that one of them makes, so nobody makes it for such a cluster.
    for name in ("secret.key", "token"):
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    away = cluster.worker["1"]
    away.host, away.inside = str(link.far.address), link.inside
    cluster.config["worker-nodes"]["1"] = away.url
    cluster.write()
    return cluster


def _astray_wrongly(loss: Loss, astray: Mapping[Loss, int]) -> list[str]:
    """Whether just those packets were lost that should be."""
    return [
        f"{count} packets were lost of those of {way.value!r}"
        for way, count in astray.items()
        if (count > 0) is not (way is loss)
    ]


def _free_network() -> ipaddress.IPv4Network:
    """Room for two, drawn among private addresses that no route leads to by name."""
    routes = json.loads(_ip("-j", "-4", "route", "show", "table", "all"))
    taken = [ipaddress.IPv4Network(route["dst"], strict=False) for route in routes if route["dst"] != "default"]
    draw = random.SystemRandom()
    for _ in range(1000):
        within = draw.choice(OURS)
        # The kernel's order of four: the network, its two hosts, everybody.
        first = int(within.network_address) + 4 * draw.randrange(within.num_addresses // 4)
        found = ipaddress.IPv4Network((first, 30))
        if not any(map(found.overlaps, taken)):
            return found
    raise Refused("there is a route to every private address")


def _received(end: End) -> dict[str, int]:
    """The kernel's counters of what came in at an end."""
    (shown,) = json.loads(_at(end, "link", "show", end.name, options=("-s", "-s", "-j")))
    found: dict[str, int] = shown["stats64"]["rx"]
    return {"otherhost": 0, **found}


def _at(end: End, *words: str, options: tuple[str, ...] = ()) -> str:
    return _ip(*options, *(("-n", end.namespace) if end.namespace else ()), *words)


def _ip(*words: str) -> str:
    """Call ``ip``.

    Raises:
        CalledProcessError: it said no; says why.
    """
    done: subprocess.CompletedProcess[str] = subprocess.run(
        ["ip", *words], check=True, capture_output=True, text=True, timeout=COMMAND_SECONDS
    )
    return done.stdout
