"""What an API node answers, as types: what ``/openapi.json`` says of its answers is made of them.

``/cluster`` is made of these. Summaries and problems are written by quicker means (``common/summaries.py``,
``common/problems.py``); tests read the answers of a running cluster as these types, and accept no member more or less.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api_node.bulk import LineError
from common.routing import Route, WorkerId
from common.slices import SliceId
from common.wire import Pins, SettledRoute

Count = Annotated[int, Meta(ge=0)]
Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
RequestId = Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$")]
Url = Annotated[str, Meta(extra_json_schema={"format": "uri"})]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was not served (RFC 9457). It never quotes what was sent.

    Attributes:
        type: what kind of problem it is, for programs.
        title: the same for people; it does not vary with the occurrence.
        status: the HTTP status.
        detail: what happened this time; begins with the field, where one is to blame.
        field: the field that is to blame, if one is.
        request_id: of the request, in the log too; there if the fault is ours (5xx).
    """

    type: Annotated[str, Meta(pattern="^urn:tallyslice:problem:[a-z-]+$")]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    field: str | UnsetType = UNSET
    request_id: RequestId | UnsetType = UNSET


class BulkProblem(Problem, frozen=True, kw_only=True):
    """Why no event of a bulk request was taken. The four numbers and lists are there if its events could be read.

    Attributes:
        type: what kind of problem it is, for programs.
        title: the same for people; it does not vary with the occurrence.
        status: the HTTP status.
        detail: what happened this time; begins with the field, where one is to blame.
        field: the field that is to blame, if one is.
        request_id: of the request, in the log too; there if the fault is ours (5xx).
        accepted: 0.
        repeated: 0, or null where that cannot be known.
        rejected: how many are among the errors.
        errors: why each event was not taken; ascending by index.
    """

    accepted: Count | UnsetType = UNSET
    repeated: Count | UnsetType | None = UNSET
    rejected: Count | UnsetType = UNSET
    errors: tuple[LineError, ...] | UnsetType = UNSET


class SliceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster knows of one slice.

    Attributes:
        slice: the number of the slice.
        start: its first instant.
        end: the first instant after it.
        unique_users: different users.
        clicks: events of type click; there even when 0.
        impressions: events of type impression; there even when 0.
        events: events by type, those that occurred.
        complete: false if a worker did not answer, if one is known to have lost data of the slice, or if there are late
            events.
        late: events that came from a spool after the slice was closed; only if there are some. Their users are not in
            unique_users.
        spooled: events of the slice in the spool of the API node that answers; only if there are some. They are in no
            other number yet.
    """

    slice: SliceId
    start: Instant
    end: Instant
    unique_users: Count
    clicks: Count
    impressions: Count
    events: dict[str, Count]
    complete: bool
    late: Count | UnsetType = UNSET
    spooled: Count | UnsetType = UNSET


class WorkerPart(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker knows of one slice. One that did not answer has only worker, url, and complete: false.

    Attributes:
        worker: its id in the cluster file.
        url: where it is; null if the answering node's file does not list it.
        complete: false if it did not answer, is known to have lost data of the slice, or there are late events.
        slice: the number of the slice.
        start: its first instant.
        end: the first instant after it.
        unique_users: different users.
        clicks: events of type click; there even when 0.
        impressions: events of type impression; there even when 0.
        events: events by type, those that occurred.
        late: events that came from a spool after the slice was closed; only if there are some.
    """

    worker: WorkerId
    url: Url | None
    complete: bool
    slice: SliceId | UnsetType = UNSET
    start: Instant | UnsetType = UNSET
    end: Instant | UnsetType = UNSET
    unique_users: Count | UnsetType = UNSET
    clicks: Count | UnsetType = UNSET
    impressions: Count | UnsetType = UNSET
    events: dict[str, Count] | UnsetType = UNSET
    late: Count | UnsetType = UNSET


class PerWorker(msgspec.Struct, frozen=True, kw_only=True):
    """What each worker of its route knows of one slice.

    Attributes:
        slice: the number of the slice.
        workers: in route order; empty if no route is settled.
    """

    slice: SliceId
    workers: tuple[WorkerPart, ...]


class AllSlices(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster knows of all slices that hold data.

    Attributes:
        slices: oldest first.
    """

    slices: tuple[SliceSummary, ...]


class ProposedRoute(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the cluster file's routing.

    Attributes:
        slice: the first slice that it is for.
        nodes: ids of workers.
    """

    slice: SliceId
    nodes: Route


class ShownPins(Pins, frozen=True, kw_only=True):
    """The constants that a cluster settles at its first contact.

    Attributes:
        cluster: the cluster id, drawn then.
        first: the start of slice 0, microseconds since 1970.
        first_slice: the same for people.
        length_seconds: the length of a slice.
        secret_id: names the secret.
        registry: the worker that hosts the registry.
        workers: worker id -> uuid of its data directory.
        replaced: worker id -> the claim number of the replacement, where its directory took an earlier one's place.
        unknown_before: where the registry was rebuilt without somebody: microseconds since 1970. Whether a slice that
            began before this and is not settled holds anything, nobody knows.
    """

    first_slice: Instant


class ParkedSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Why a worker takes no events of a slice from this node.

    Attributes:
        outcome: what it answered.
        detail: the same for people.
    """

    outcome: str
    detail: str


class ClusterWorker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker of the cluster file, as the answering node sees it.

    Attributes:
        id: its id in the cluster file.
        url: where it is.
        state: unknown until it was spoken to.
        detail: why it refuses, or is away; else null.
        queue_events: events that wait for it in memory.
        queue_bytes: their bytes.
        parked: slice -> why it takes no events of it.
    """

    id: WorkerId
    url: Url
    state: Literal["ok", "away", "refused", "unknown"]
    detail: str | None
    queue_events: Count
    queue_bytes: Count
    parked: dict[str, ParkedSlice]


class SpoolState(msgspec.Struct, frozen=True, kw_only=True):
    """What waits on the answering node's disk for workers that are away.

    Attributes:
        events: how many.
        bytes: of their batches.
        age_seconds: of the oldest; 0 if there is none.
        refusal: why it takes nothing more, or null.
    """

    events: Count
    bytes: Count
    age_seconds: Annotated[float, Meta(ge=0)]
    refusal: str | None


class RefusedFile(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file on disk is not the one in use.

    Attributes:
        reasons: all of them.
        at: when it was first refused for them.
    """

    reasons: tuple[str, ...]
    at: Instant


class TokensState(msgspec.Struct, frozen=True, kw_only=True):
    """What the answering node knows of the tokens file.

    Attributes:
        count: how many tokens are known.
        version: a digest of the file that they are of.
        refusal: why the file on disk is not the one in use; null if it is.
    """

    count: Count
    version: str
    refusal: RefusedFile | None


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """What the answering node knows of its cluster.

    Attributes:
        process: which process answers, of a node of several; null if there is one.
        version: a digest of the cluster file that this node runs on.
        pins: the cluster's constants; null before the first contact.
        claims: the highest claim number that this node knows.
        proposed: the routing of the file.
        settled: the latest 100 claims; empty while the registry is away.
        differing: those of them for which the file now proposes another route.
        named: workers that hold a settled slice, as far as is known here.
        workers: those of the file.
        spool: what waits on this node's disk for workers that are away.
        tokens: of the tokens file; null if clients are asked for none.
        refusal: why the cluster file on disk is not the one in use; null if it is.
        problems: what people should know, a sentence each; empty when all is well.
    """

    process: int | None
    version: str
    pins: ShownPins | None
    claims: Count
    proposed: tuple[ProposedRoute, ...]
    settled: tuple[SettledRoute, ...]
    differing: tuple[SettledRoute, ...]
    named: tuple[WorkerId, ...]
    workers: tuple[ClusterWorker, ...]
    spool: SpoolState
    tokens: TokensState | None
    refusal: RefusedFile | None
    problems: tuple[str, ...]
