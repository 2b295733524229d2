"""After healing: does what the workers hold agree with what the clients were told?

For each worker of each slice there are batches that were acknowledged as counted, acknowledged as spooled, refused, or
whose node died before it told. What is held must be all of the first two, none of the third, and some of the fourth,
each as a whole: a choice must exist under which the counts of every type *and* the unique users are equal, not close.

::

    late = 0     counted + spooled + some unknown                       = counts, users        complete
    late > 0     the same without some spooled (or unknown) ones,
                 of which only the events without id are in the counts  = counts, users        not complete
    rotten       a spooled batch whose record cannot be read counts as unknown   not complete; else as spooled
    lost         at most everything, at least what was acknowledged since       not complete
    not known    after a rebuild in which nobody could tell the route: nothing but rotten records      answered 503
    set back     at most everything; if not everything that was acknowledged is there, and a stream that
                 lost something went on, it must have noticed:                                 not complete
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

from common.errors import NoAnswer
from common.routing import WorkerId
from common.slices import SliceId
from common.summaries import Summary, add
from tests.simulation.ledger import Fate, Waiter, count, count_unkeyed, users
from tests.simulation.world import Broken, World

CHOICES_MAX = 1 << 12


def check(world: World) -> None:
    """Check the whole cluster.

    Raises:
        Broken: it broke its promise; the message says where.
    """
    for slice_id in sorted({*world.slices, *world.ledger.slices()}):
        _check_slice(world, slice_id)


def _check_slice(world: World, slice_id: SliceId) -> None:
    seen: dict[bytes, WorkerId] = {}
    routes = set()
    parts = []
    for worker, machine in world.machines.items():
        held = machine.held(slice_id)
        keys = machine.disk.users(slice_id)
        for key in keys:
            if key in seen:
                raise Broken(f"slice {slice_id}: a user is held by worker {seen[key]} and by worker {worker}")
            seen[key] = worker
        summary = Summary(slice=slice_id) if held is None else held.summary
        if held is not None:
            routes.add(held.route)
            parts.append(summary)
        if keys and len(keys) != summary.users:
            raise Broken(
                f"slice {slice_id}, worker {worker}: {summary.users} users in the summary, {len(keys)} in the file"
            )
        _check_part(world, worker, slice_id, summary)
    if len(routes) > 1:
        raise Broken(f"slice {slice_id} is held under {len(routes)} routes: {routes}")
    _check_answers(world, slice_id, add(slice_id, parts))


def _check_answers(world: World, slice_id: SliceId, whole: Summary) -> None:
    """Every node, asked afresh, answers the sum of what the workers hold."""
    if whole.is_empty and slice_id not in world.ledger.slices():
        return
    for node in world.nodes:
        try:
            route = node.find(slice_id)
        except NoAnswer as error:
            if whole.is_empty:
                continue
            raise Broken(f"node {node.name} does not find the route of slice {slice_id}: {error}") from None
        if route is None and world.is_unknown(slice_id):
            raise Broken(f"node {node.name} answers zeros for slice {slice_id}, of which nobody knows what it holds")
        held = [world.machines[worker].held(slice_id) for worker in route or ()]
        answer = add(slice_id, [one.summary for one in held if one is not None])
        if answer != whole:
            raise Broken(f"node {node.name} answers {answer} for slice {slice_id}, and the workers hold {whole}")


def _check_part(world: World, worker: WorkerId, slice_id: SliceId, summary: Summary) -> None:
    where = f"slice {slice_id}, worker {worker}"
    batches = world.ledger.batches(worker, slice_id)
    if any(one.fate is Fate.WAITING for one in batches):
        raise Broken(f"{where}: a batch was never answered")
    told = [one for one in batches if one.fate in (Fate.COUNTED, Fate.SPOOLED)]
    unknown = [one for one in batches if one.fate is Fate.UNKNOWN]
    if (worker, slice_id) in world.given_up:
        # Set back as well: then nothing is certain to be there.
        since = world.step if worker in world.replaced else world.given_up[worker, slice_id]
        _check_given_up(summary, told, unknown, since=since, where=where)
        return
    if worker in world.replaced:
        noticed = _should_have_noticed(world, worker, slice_id, told)
        _check_set_back(summary, told, unknown, noticed=noticed, where=where)
        return
    if world.is_unknown(slice_id):
        # Every node answers 503: what its rotten records held may be lost, and is not said to be zero.
        if told or not summary.is_empty:
            raise Broken(f"{where}: is not known any more, and has acknowledged events: {_of(told)}")
        return
    rotten = [one for one in unknown if one in world.rotten]
    if summary.complete == (summary.late > 0) and (summary.complete or not rotten):
        raise Broken(f"{where}: complete is {summary.complete}, with {summary.late} late events")
    if summary.complete:
        # What a record held that cannot be read must have been counted before, or the slice has to say so.
        unknown = [one for one in unknown if one not in rotten]
        told += rotten
    kept = [one for one in told if one.fate is not Fate.SPOOLED]
    spooled = [one for one in told if one.fate is Fate.SPOOLED]
    if not summary.late:
        kept, spooled = told, []
    if not _some_choice_fits(summary, kept, spooled, unknown):
        text = f"holds {_shown(summary)}; acknowledged {_of(told)}"
        raise Broken(f"{where}: {text}, with those whose node died at most {_of(told + unknown)}")


def _some_choice_fits(summary: Summary, kept: list[Waiter], spooled: list[Waiter], unknown: list[Waiter]) -> bool:
    for late, in_time, late_unknown, some in _choices(summary, spooled, unknown):
        if sum(len(one.events) for one in (*late, *late_unknown)) != summary.late:
            continue
        proper = [*kept, *in_time, *some]
        counts = count(proper) + count_unkeyed([*late, *late_unknown])
        if counts == Counter(summary.counts) and len(users(proper)) == summary.users:
            return True
    return False


def _choices(
    summary: Summary, spooled: list[Waiter], unknown: list[Waiter]
) -> Iterator[tuple[list[Waiter], list[Waiter], list[Waiter], list[Waiter]]]:
    """Which spooled batches were late, which were not; which unknown ones were late, and which were counted."""
    left = CHOICES_MAX
    for late in _subsets(spooled if summary.late else []):
        in_time = [one for one in spooled if one not in late]
        for late_unknown in _subsets(unknown if summary.late else []):
            for some in _subsets([one for one in unknown if one not in late_unknown]):
                left -= 1
                if not left:
                    message = "too many unknown batches: shorten the histories"
                    raise RuntimeError(message)
                yield late, in_time, late_unknown, some


def _subsets(batches: list[Waiter]) -> Iterator[list[Waiter]]:
    for size in range(len(batches), -1, -1):
        for chosen in combinations(batches, size):
            yield list(chosen)


def _check_set_back(summary: Summary, told: list[Waiter], unknown: list[Waiter], *, noticed: bool, where: str) -> None:
    most, least = count(told + unknown), count(told)
    counts = Counter(summary.counts)
    if any(number > most[name] for name, number in counts.items()):
        raise Broken(f"{where}: holds {_shown(summary)} after its disk was set back, more than {_of(told + unknown)}")
    if summary.users > len(users(told + unknown)):
        raise Broken(f"{where}: has more users than were ever sent")
    lost = any(counts[name] < number for name, number in least.items()) or summary.users < len(users(told))
    if lost and summary.complete and noticed:
        raise Broken(
            f"{where}: lost acknowledged events, and says that it is complete: {_shown(summary)} of {_of(told)}"
        )


def _check_given_up(summary: Summary, told: list[Waiter], unknown: list[Waiter], *, since: int, where: str) -> None:
    """A slice that was on a disk which is lost: never complete again, and everything since is there."""
    if summary.complete:
        raise Broken(f"{where}: its disk was lost, and it says that it is complete")
    most, least = count(told + unknown), count(one for one in told if one.fate is Fate.COUNTED and one.step > since)
    counts = Counter(summary.counts)
    if any(number > most[name] for name, number in counts.items()) or summary.users > len(users(told + unknown)):
        raise Broken(f"{where}: holds {_shown(summary)} on its new disk, more than {_of(told + unknown)}")
    if any(counts[name] < number for name, number in least.items()):
        raise Broken(f"{where}: holds {_shown(summary)} on its new disk, less than the {dict(least)} since")


def _should_have_noticed(world: World, worker: WorkerId, slice_id: SliceId, told: list[Waiter]) -> bool:
    """Whether a stream that lost batches had another one counted since."""
    streams = world.lost.get((worker, slice_id), {})
    return any(one.stream in streams and one.fate is Fate.COUNTED and one.step > streams[one.stream] for one in told)


def _shown(summary: Summary) -> str:
    late = f", {summary.late} late" if summary.late else ""
    return f"{dict(sorted(summary.counts.items()))} of {summary.users} users{late}"


def _of(batches: list[Waiter]) -> str:
    return f"{dict(sorted(count(batches).items()))} of {len(users(batches))} users"
