"""The worker's HTTP routes, over a real server and real files."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer

from common.errors import ConfigRefused, DirectoryOwned
from common.logs import new_log
from common.routing import Route, WorkerId
from common.slices import SECOND, Micros, SliceId
from common.wire import (
    MEDIA_TYPE,
    WORKER_BODY_BYTES_MAX,
    Answer,
    Claim,
    Envelope,
    Identity,
    Join,
    Outcome,
    Pins,
    PinWorker,
    Question,
    RegistryState,
    Reply,
    Settled,
    decode,
    encode,
)
from tests.support.batches import OTHER_STREAM, STREAM, a_batch
from tests.support.configs import cluster_fields
from tests.support.patience import eventually
from tests.support.worker_parts import no_failure
from worker_node.app import Place, open_worker

FIRST = 1_495_238_400 * SECOND
ZERO, ONE = WorkerId("0"), WorkerId("1")
TEXT = "unique_users,{}\nclicks,{}\nimpressions,{}\n"


class Clock:
    """Time that stands still until it is set."""

    def __init__(self, at=FIRST):
        self.at = at

    def __call__(self):
        return Micros(self.at)


class Client:
    """Calls one worker, as API nodes and people do."""

    def __init__(self, session, base, node):
        self.node = node
        self._session = session
        self._base = base
        self.uuid = ""

    async def ask(self, method, path, body=None, headers=None):
        async with self._session.request(method, self._base + path, data=body, headers=headers) as response:
            return response.status, await response.read()

    async def get(self, path, **headers):
        status, body = await self.ask("GET", path, headers=headers)
        return status, body.decode()

    async def post(self, path, message, kind, *, media_type="application/json", status=200, token=None):
        body = msgspec.json.encode(message) if media_type == "application/json" else encode(message)
        headers = {"Content-Type": media_type} | ({"Authorization": f"Bearer {token}"} if token else {})
        found, answer = await self.ask("POST", path, body, headers)
        assert found == status, answer
        if status != 200:
            problem = json.loads(answer)
            assert problem["status"] == status
            return problem["type"].removeprefix("urn:tallyslice:problem:")
        return msgspec.json.decode(answer, type=kind) if media_type == "application/json" else decode(answer, kind)

    async def identity(self):
        _, body = await self.get("/worker/identity")
        return msgspec.json.decode(body, type=Identity)

    async def pins(self, **changes):
        pins = Pins(
            cluster="c", first=FIRST, length_seconds=60, secret_id="s", registry=ZERO, workers={ZERO: self.uuid}
        )
        return msgspec.structs.replace(pins, **changes)

    async def joined(self, **changes):
        self.uuid = (await self.identity()).uuid
        await self.post("/worker/join", Join(id=ZERO, uuid=self.uuid, pins=await self.pins(**changes)), Identity)
        return self

    async def batches(self, *batches, cluster="c", worker=None, stream=STREAM, claims=0, spooled=False):
        envelope = Envelope(
            cluster=cluster,
            worker=worker or self.uuid,
            stream=stream,
            claims=claims,
            batches=tuple(map(encode, batches)),
            spooled=spooled,
        )
        return await self.post("/worker/batches", envelope, Reply, media_type=MEDIA_TYPE)

    async def outcomes(self, *batches, **envelope):
        return [receipt.outcome for receipt in (await self.batches(*batches, **envelope)).receipts]

    async def question(self, *, status=200, **fields):
        fields = {"cluster": "c", "worker": self.uuid, "claims": 0, **fields}
        return await self.post("/worker/summaries", Question(**fields), Answer, media_type=MEDIA_TYPE, status=status)


@asynccontextmanager
async def running(folder, *, now=None, worker="0", data="data", stream=None, **settings):
    """A worker that serves; its cluster file is made unless it is there."""
    file = folder / "cluster.json"
    if settings or not file.exists():
        file.write_text(json.dumps(cluster_fields(**settings)))
    place = Place(worker=WorkerId(worker), cluster_file=file, folder=folder / data)
    async with (
        open_worker(
            place, log=new_log("worker", stream=stream or io.StringIO()), fail=no_failure, now=now or Clock()
        ) as node,
        TestServer(node.app) as server,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, str(server.make_url("")).rstrip("/"), node)


@pytest.fixture
async def fresh(tmp_path):
    async with running(tmp_path) as client:
        client.uuid = (await client.identity()).uuid
        yield client


@pytest.fixture
async def worker(fresh):
    return await fresh.joined()


# Batches


async def test_batches_get_a_receipt_each_with_the_slice_as_it_is_then(worker):
    reply = await worker.batches(a_batch(("u", "click")), a_batch(("v", "x"), at=3), claims=4)

    assert [(receipt.slice, receipt.seq, receipt.outcome) for receipt in reply.receipts] == [
        (0, 1, Outcome.APPLIED),
        (3, 1, Outcome.APPLIED),
    ]
    assert (reply.worker, reply.claims) == (worker.uuid, 4)
    assert reply.receipts[1].held.summary.counts == {"x": 1}


async def test_the_same_envelope_again_counts_nothing(worker):
    await worker.batches(a_batch(("u", "click")))

    assert await worker.outcomes(a_batch(("u", "click"))) == [Outcome.DUPLICATE]
    assert await worker.get("/worker?slice=0") == (200, TEXT.format(1, 1, 0))


async def test_a_worker_that_joined_no_cluster_takes_nothing(fresh):
    assert await fresh.outcomes(a_batch(("u", "click"))) == [Outcome.WRONG_CLUSTER]
    assert await fresh.question(status=409) == "wrong-cluster"


async def test_what_is_meant_for_others_is_refused_whole(worker):
    batches = a_batch(("u", "click")), a_batch(("u", "click"), at=1)

    assert await worker.outcomes(*batches, cluster="d") == [Outcome.WRONG_CLUSTER] * 2
    assert await worker.outcomes(*batches, worker="0123") == [Outcome.WRONG_WORKER] * 2
    assert await worker.question(cluster="d", status=409) == "wrong-cluster"
    assert await worker.question(worker="0123", status=409) == "wrong-worker"
    assert await worker.get("/worker/slices") == (200, '{"slices":[]}')


async def test_a_batch_for_another_route_is_refused_by_itself(worker):
    found = await worker.outcomes(
        a_batch(("u", "click"), route=("7",)),
        a_batch(("u", "click"), at=1),
        a_batch(("u", "click"), at=2, route=("1", "0")),
    )

    # The words of the tests are keys in the lower half of the key space: the second of two workers holds none of them.
    assert found == [Outcome.WRONG_ROUTE, Outcome.APPLIED, Outcome.WRONG_ROUTE]


async def test_a_batch_made_under_another_slice_key_is_refused(worker):
    await worker.batches(a_batch(("u", "click")))

    found = await worker.outcomes(a_batch(("u", "click"), key_id=b"another!"), stream=OTHER_STREAM)

    assert found == [Outcome.WRONG_KEY]


async def test_bytes_that_are_no_envelope_are_malformed(worker):
    headers = {"Content-Type": MEDIA_TYPE}

    for body in (b"", b"\x00", b"Kanarienvogel", encode(a_batch(("u", "click")))):
        status, answer = await worker.ask("POST", "/worker/batches", body, headers)
        assert (status, b"Kanarienvogel" in answer) == (400, False)


async def test_other_media_types_are_refused(worker):
    for path, media_type in (("batches", "application/json"), ("summaries", "text/plain"), ("join", MEDIA_TYPE)):
        status, _ = await worker.ask("POST", f"/worker/{path}", b"{}", {"Content-Type": media_type})
        assert status == 415


async def test_a_body_over_the_bound_is_too_large(worker):
    status, _ = await worker.ask(
        "POST", "/worker/batches", io.BytesIO(bytes(WORKER_BODY_BYTES_MAX + 2)), {"Content-Type": MEDIA_TYPE}
    )

    assert status == 413


# Questions


async def test_a_question_gets_the_slices_that_hold_data_in_order(worker):
    await worker.batches(*(a_batch(("u", "click"), at=at) for at in (5, -2, 3, 0)))

    async def slices(**fields):
        answer = await worker.question(**fields)
        return [held.summary.slice for held in answer.held]

    assert await slices(slices=(5, 4, -2, 5)) == [-2, 5]
    assert await slices() == [-2, 0, 3, 5]
    assert await slices(after=-2, until=3) == [0, 3]
    assert await slices(until=-3) == []


async def test_a_question_brings_the_claim_number_along(worker):
    answer = await worker.question(claims=9, slices=())

    assert (answer.claims, (await worker.identity()).claims) == (9, 9)


async def test_a_damaged_slice_is_neither_zero_nor_a_sum(worker, tmp_path):
    async with running(tmp_path, data="other") as client:
        await client.joined()
        await client.batches(a_batch(("u", "click")), a_batch(("u", "click"), at=1))
    (tmp_path / "other" / "slices" / "0.mdb").write_bytes(b"x" * 20_000)

    async with running(tmp_path, data="other") as client:
        await client.joined()
        answer = await client.question()

        assert (answer.unreadable, [held.summary.slice for held in answer.held]) == ((0,), [1])
        assert (await client.get("/worker?slice=0"))[0] == 503
        assert await client.outcomes(a_batch(("v", "click"), seq=2)) == [Outcome.QUARANTINED]


# Identity and joining


async def test_a_new_worker_has_an_identity_and_no_cluster(fresh):
    identity = await fresh.identity()

    assert (identity.id, identity.cluster, identity.claims, identity.pins) == ("0", None, 0, None)
    assert len(identity.uuid) == 32


async def test_a_worker_that_joined_stays_in_its_cluster(tmp_path):
    async with running(tmp_path) as client:
        await client.joined()
        uuid, pins = client.uuid, await client.pins()

    async with running(tmp_path) as client:
        identity = await client.identity()
        client.uuid = uuid
        assert identity == Identity(id=ZERO, uuid=uuid, cluster="c", claims=0, pins=pins)
        other = Join(id=ZERO, uuid=uuid, pins=await client.pins(cluster="d"))
        assert await client.post("/worker/join", other, Identity, status=409) == "wrong-cluster"


@pytest.mark.parametrize(
    ("field", "value"), [("first", 1), ("length_seconds", 61), ("secret_id", "t"), ("registry", ONE)]
)
async def test_the_constants_of_a_cluster_never_change(worker, field, value):
    changed = Join(id=ZERO, uuid=worker.uuid, pins=await worker.pins(**{field: value}))

    assert await worker.post("/worker/join", changed, Identity, status=409) == "wrong-cluster"


async def test_a_worker_learns_of_workers_that_were_pinned_later(worker):
    wider = await worker.pins(workers={ZERO: worker.uuid, ONE: "v"})

    identity = await worker.post("/worker/join", Join(id=ZERO, uuid=worker.uuid, pins=wider), Identity)
    narrow = await worker.post("/worker/join", Join(id=ZERO, uuid=worker.uuid, pins=await worker.pins()), Identity)

    assert identity.pins == narrow.pins == wider


async def test_a_join_meant_for_another_worker_is_refused(worker):
    pins = await worker.pins()

    for join in (
        Join(id=ONE, uuid=worker.uuid, pins=pins),
        Join(id=ZERO, uuid="another", pins=pins),
        Join(id=ZERO, uuid=worker.uuid, pins=await worker.pins(workers={ZERO: "another"})),
    ):
        assert await worker.post("/worker/join", join, Identity, status=409) == "wrong-worker"


async def test_two_who_bring_different_clusters_at_once_do_not_both_win(fresh):
    async def join(cluster):
        pins = await fresh.pins(cluster=cluster)
        body = msgspec.json.encode(Join(id=ZERO, uuid=fresh.uuid, pins=pins))
        return (await fresh.ask("POST", "/worker/join", body, {"Content-Type": "application/json"}))[0]

    found = await asyncio.gather(*map(join, "abcdefgh"))

    assert sorted(found) == [200] + [409] * 7


async def test_a_message_that_is_none_is_malformed_and_not_echoed(worker):
    status, body = await worker.ask(
        "POST", "/worker/join", b'{"id": "Kanarienvogel"', {"Content-Type": "application/json"}
    )

    assert (status, b"Kanarienvogel" in body) == (400, False)


# The registry


async def test_the_registry_settles_pins_and_routes(fresh):
    assert await fresh.get("/worker/registry") == (200, '{"pins":null,"claims":0,"named":[],"recent":[]}')
    pins = await fresh.pins()

    state = await fresh.post("/worker/registry/pins", pins, RegistryState)
    assert state.pins == pins
    state = await fresh.post("/worker/registry/pins", await fresh.pins(cluster="d"), RegistryState)
    assert state.pins == pins

    await fresh.joined()
    pin = PinWorker(cluster="c", id=ONE, uuid="v")
    state = await fresh.post("/worker/registry/workers", pin, RegistryState)
    assert state.pins.workers == {"0": fresh.uuid, "1": "v"}

    claim = Claim(cluster="c", claims=0, routes={SliceId(-3): (ZERO, ONE)})
    settled = await fresh.post("/worker/registry/claims", claim, Settled)
    assert [(one.slice, one.route, one.number) for one in settled.routes] == [(-3, ("0", "1"), 1)]


async def test_the_registry_is_at_one_worker_only(tmp_path):
    async with running(tmp_path, registry="1") as client:
        client.uuid = (await client.identity()).uuid

        assert (await client.get("/worker/registry"))[0] == 404
        assert await client.post("/worker/registry/pins", await client.pins(), RegistryState, status=404) == "not-found"
    assert not (tmp_path / "data" / "registry.mdb").exists()


async def test_the_pins_of_a_registry_elsewhere_are_not_settled_here(fresh):
    for pins in (await fresh.pins(registry=ONE), await fresh.pins(workers={ZERO: "another"})):
        assert await fresh.post("/worker/registry/pins", pins, RegistryState, status=409) == "wrong-worker"


async def test_an_empty_registry_of_a_worker_with_a_cluster_is_not_the_real_one(worker):
    pins = await worker.pins()

    assert await worker.post("/worker/registry/pins", pins, RegistryState, status=409) == "registry-behind"


async def test_a_registry_that_was_set_back_claims_nothing(fresh):
    """The worker beside it has heard of claims that are not there."""
    await fresh.post("/worker/registry/pins", await fresh.pins(), RegistryState)
    await fresh.joined()
    await fresh.batches(a_batch(("u", "click")), claims=3)

    claim = Claim(cluster="c", claims=0, routes={SliceId(7): (ZERO,)})
    assert await fresh.post("/worker/registry/claims", claim, Settled, status=409) == "registry-behind"
    wrong = Claim(cluster="d", claims=0, routes={})
    assert await fresh.post("/worker/registry/claims", wrong, Settled, status=409) == "wrong-cluster"


async def test_a_registry_file_that_is_set_back_alone_is_found_out(tmp_path):
    """The worker keeps the number of each claim beside its registry, before anybody else can know of it."""
    async with running(tmp_path) as client:
        client.uuid = (await client.identity()).uuid
        await client.post("/worker/registry/pins", await client.pins(), RegistryState)
        await client.joined()
    backup = (tmp_path / "data" / "registry.mdb").read_bytes()
    async with running(tmp_path) as client:
        claim = Claim(cluster="c", claims=0, routes={SliceId(7): (ZERO,)})
        await client.post("/worker/registry/claims", claim, Settled)
    (tmp_path / "data" / "registry.mdb").write_bytes(backup)

    async with running(tmp_path) as client:
        other = Claim(cluster="c", claims=0, routes={SliceId(8): (ZERO,)})
        assert await client.post("/worker/registry/claims", other, Settled, status=409) == "registry-behind"


async def test_the_registry_of_another_cluster_is_refused(tmp_path):
    async with running(tmp_path) as client:
        client.uuid = (await client.identity()).uuid
        await client.post("/worker/registry/pins", await client.pins(cluster="d"), RegistryState)
        await client.joined()

        status, body = await client.get("/worker/registry")

        assert (status, json.loads(body)["detail"]) == (409, "the registry here is that of cluster d, not of c")


async def test_over_max_slices_a_claim_is_turned_away(tmp_path):
    async with running(tmp_path, max_slices=1) as client:
        client.uuid = (await client.identity()).uuid
        await client.post("/worker/registry/pins", await client.pins(), RegistryState)
        await client.joined()

        routes: dict[SliceId, Route] = {SliceId(at): (ZERO,) for at in (90, 0, 1, 91)}
        settled = await client.post("/worker/registry/claims", Claim(cluster="c", claims=0, routes=routes), Settled)

    # Slice 0 is the current one.
    assert [one.slice for one in settled.routes] == [90, 0, 1]
    assert settled.over == (91,)


# For people


async def test_a_slice_that_holds_nothing_shows_zeros(worker):
    for path in ("/worker?slice=7", "/workers?slice=-7"):
        assert await worker.get(path) == (200, TEXT.format(0, 0, 0))


async def test_a_slice_is_shown_as_json_too(worker):
    await worker.batches(a_batch(("u", "click"), at=1))

    for path, headers in (("?slice=1&format=json", {}), ("?slice=1", {"Accept": "application/json"})):
        status, body = await worker.get(f"/worker{path}", **headers)
        assert status == 200
        assert json.loads(body) == {
            "slice": 1,
            "start": "2017-05-20T00:01:00Z",
            "end": "2017-05-20T00:02:00Z",
            "unique_users": 1,
            "clicks": 1,
            "impressions": 0,
            "events": {"click": 1},
            "complete": True,
        }


async def test_before_it_joined_a_worker_cannot_say_when_a_slice_begins(fresh):
    assert (await fresh.get("/worker?slice=1&format=json"))[0] == 503
    assert (await fresh.get("/worker?slice=1"))[0] == 200


@pytest.mark.parametrize("query", ["", "?slice=", "?slice=x", "?slice=1.5", f"?slice={1 << 63}", "?slice=1&slice=1"])
async def test_a_slice_that_is_none_is_malformed(worker, query):
    status, body = await worker.get(f"/worker{query}")

    assert (status, json.loads(body)["field"]) == (400, "slice")


async def test_one_event_is_counted_by_hand(worker):
    await worker.batches(a_batch(("u", "click"), at=1))

    for users, flag in ((2, "impression"), (2, "event=x")):
        status, body = await worker.ask("POST", f"/worker?slice=1&user={'ab' * 16}&{flag}")
        assert (status, body.decode().splitlines()[0]) == (202, f"unique_users,{users}")

    assert await worker.get("/worker?slice=1") == (200, TEXT.format(2, 1, 1) + "x,1\n")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (f"slice=2&user={'ab' * 16}&click", 409),
        (f"slice=1&user={'ab' * 15}&click", 400),
        ("slice=1&user=Kanarienvogel&click", 400),
        ("slice=1&click", 400),
        (f"slice=1&user={'ab' * 16}", 400),
        (f"slice=1&user={'ab' * 16}&click&impression", 400),
        (f"slice=1&user={'ab' * 16}&event=user", 400),
        (f"user={'ab' * 16}&click", 400),
    ],
)
async def test_an_event_by_hand_that_does_not_fit_is_refused(worker, query, status):
    await worker.batches(a_batch(("u", "click"), at=1))

    found, body = await worker.ask("POST", f"/worker?{query}")

    assert (found, b"Kanarienvogel" in body) == (status, False)


async def test_an_event_by_hand_for_another_workers_user_is_refused(worker):
    await worker.batches(a_batch(at=1, route=("0", "1")))

    status, body = await worker.ask("POST", f"/worker?slice=1&user={'ff' * 16}&click")

    assert (status, json.loads(body)["detail"]) == (409, "user: the user key belongs to worker 1")


async def test_with_compat_the_label_is_the_older_systems(tmp_path):
    async with running(tmp_path, compat="rt") as client:
        assert (await client.get("/worker?slice=1"))[1].startswith("unqiue_users,0\n")


async def test_the_probes_answer(worker):
    assert await worker.get("/livez") == (200, "ok\n")
    assert await worker.get("/readyz") == (200, "ok\n")
    await worker.batches(a_batch(("u", "click"), ("v", "click")))

    _, text = await worker.get("/metrics")

    assert "\ntallyslice_worker_events_applied_total 2.0\n" in text
    assert '\ntallyslice_worker_batches_total{outcome="applied"} 1.0\n' in text


# The token


async def test_with_a_token_posts_need_it(tmp_path):
    (tmp_path / "token").write_text("open-sesame\n")
    (tmp_path / "token").chmod(0o600)
    async with running(tmp_path, internal_token_file="token") as client:
        client.uuid = (await client.identity()).uuid
        join = Join(id=ZERO, uuid=client.uuid, pins=await client.pins())

        assert await client.post("/worker/join", join, Identity, status=401) == "unauthorized"
        assert await client.post("/worker/join", join, Identity, status=403, token="x") == "forbidden"
        await client.post("/worker/join", join, Identity, token="open-sesame")
        assert (await client.ask("POST", "/worker?slice=0"))[0] == 401
        assert (await client.get("/worker?slice=0"))[0] == 200


# Closing, and the cluster file


async def test_a_slice_is_closed_when_its_time_has_come(tmp_path):
    #        end of slice 0   + close-after 10 s   + grace 20 s
    #   |-----------|------------------|------------------|
    clock = Clock()
    late = a_batch(("v", "click"), ("w", "click"), seq=2)
    async with running(tmp_path, now=clock, close_after_seconds=10, close_grace_seconds=20) as client:
        await client.joined()
        await client.batches(a_batch(("u", "click")), a_batch(("u", "click"), at=1))

        clock.at = FIRST + 90 * SECOND - 1
        await client.node.closing.close_due()
        assert (tmp_path / "data" / "slices" / "0.mdb").exists()
        clock.at = FIRST + 90 * SECOND
        await client.node.closing.close_due()

        assert sorted(path.name for path in (tmp_path / "data" / "slices").iterdir()) == ["1.mdb", "1.mdb-lock"]
        assert await client.get("/worker?slice=0") == (200, TEXT.format(1, 1, 0))
        assert await client.outcomes(a_batch(("u", "click")), late) == [Outcome.DUPLICATE, Outcome.CLOSED]
        assert (await client.ask("POST", f"/worker?slice=0&user={'ab' * 16}&click"))[0] == 422
        for outcome in (Outcome.APPLIED, Outcome.DUPLICATE):
            assert await client.outcomes(late, spooled=True) == [outcome]
    async with running(tmp_path, now=clock) as client:
        assert await client.get("/worker?slice=0") == (200, TEXT.format(1, 3, 0) + "late,2\n")
        assert await client.get("/worker/slices") == (200, '{"slices":[0,1]}')


async def test_without_close_after_nothing_is_closed(tmp_path):
    clock = Clock(FIRST + 10**9 * SECOND)
    async with running(tmp_path, now=clock) as client:
        await client.joined()
        await client.batches(a_batch(("u", "click")))

        await client.node.closing.close_due()

        assert (tmp_path / "data" / "slices" / "0.mdb").exists()


async def test_the_worker_follows_its_file(tmp_path):
    async with running(tmp_path, reload_seconds=0.1) as client:

        async def label():
            status, body = await client.get("/worker?slice=1")
            assert (status, body.partition(",")[0]) == (200, "unqiue_users")

        (tmp_path / "cluster.json").write_text(json.dumps(cluster_fields(compat="rt")))

        await eventually(label)


@pytest.mark.parametrize(
    ("workers", "reason"),
    [
        ({"0": "http://localhost:7777/worker", "1": "http://localhost:9001/worker"}, "cannot follow"),
        ({"1": "http://localhost:9001/worker"}, "cannot be removed"),
    ],
)
async def test_a_worker_that_runs_can_neither_move_nor_go(tmp_path, workers, reason):
    """The change is refused, the log says why, and the worker goes on."""
    stream = io.StringIO()
    async with running(tmp_path, stream=stream, reload_seconds=0.1, routing=[{"slice": 0, "nodes": ["1"]}]) as client:
        await client.joined()
        await client.batches(a_batch(("u", "click")))

        async def refused():
            assert reason in stream.getvalue()

        changed = cluster_fields(worker_nodes=workers, registry="0" if "0" in workers else None)
        (tmp_path / "cluster.json").write_text(json.dumps({**changed, "routing": [{"slice": 0, "nodes": ["1"]}]}))

        await eventually(refused)
        assert (await client.get("/readyz"))[0] == 200


async def test_a_file_that_contradicts_the_pins_is_refused_at_start(tmp_path):
    async with running(tmp_path) as client:
        await client.joined()

    with pytest.raises(ConfigRefused, match="length-of-time-slice: 61"):
        async with running(tmp_path, length_of_time_slice=61):
            pass


async def test_a_worker_that_the_file_does_not_name_is_refused(tmp_path):
    with pytest.raises(ConfigRefused, match='no worker "7"; known: "0", "1"'):
        async with running(tmp_path, worker="7"):
            pass


# The data directory


async def test_a_data_directory_has_one_owner(tmp_path):
    async with running(tmp_path):
        with pytest.raises(DirectoryOwned):
            async with running(tmp_path):
                pass


async def test_a_data_directory_belongs_to_one_worker(tmp_path):
    async with running(tmp_path):
        pass

    with pytest.raises(ConfigRefused, match="belongs to worker 0, not to worker 1"):
        async with running(tmp_path, worker="1"):
            pass


async def test_data_without_an_identity_is_refused(tmp_path):
    async with running(tmp_path) as client:
        await client.joined()
    (tmp_path / "data" / "identity.json").unlink()

    with pytest.raises(ConfigRefused, match=r"holds totals\.mdb, but no identity\.json"):
        async with running(tmp_path):
            pass


@pytest.mark.parametrize("content", [b"", b"{}", b'{"id": "0", "uuid": 7, "cluster": null}'])
async def test_an_identity_that_cannot_be_read_is_refused(tmp_path, content):
    async with running(tmp_path):
        pass
    (tmp_path / "data" / "identity.json").write_bytes(content)

    with pytest.raises(ConfigRefused, match="cannot be read"):
        async with running(tmp_path):
            pass


async def test_a_stop_between_totals_and_identity_is_mended(tmp_path):
    async with running(tmp_path) as client:
        before = (tmp_path / "data" / "identity.json").read_bytes()
        await client.joined()
    after = (tmp_path / "data" / "identity.json").read_bytes()
    (tmp_path / "data" / "identity.json").write_bytes(before)

    async with running(tmp_path) as client:
        assert (await client.identity()).cluster == "c"

    assert (tmp_path / "data" / "identity.json").read_bytes() == after


async def test_totals_of_another_state_are_refused(tmp_path):
    """totals.mdb was lost, or is another cluster's, while the identity says that the worker has joined."""
    async with running(tmp_path) as client:
        await client.joined()
    async with running(tmp_path, data="other") as client:
        await client.joined(cluster="d")

    (tmp_path / "data" / "totals.mdb").unlink()
    with pytest.raises(ConfigRefused, match=r"but its totals\.mdb did not"):
        async with running(tmp_path):
            pass
    (tmp_path / "other" / "totals.mdb").rename(tmp_path / "data" / "totals.mdb")
    with pytest.raises(ConfigRefused, match=r"but its totals\.mdb is of cluster d"):
        async with running(tmp_path):
            pass
