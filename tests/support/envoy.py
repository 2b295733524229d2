"""Somebody who speaks to a worker as an API node of its cluster would: with the secret, the pins and good manners.

For what no API node does on demand: a spooled batch that comes late, a number that is used twice, a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec

from common.anonymise import SliceKeys
from common.routing import Route, WorkerId, owner_position
from common.slices import SliceId
from common.wire import MEDIA_TYPE, NO_ID, Batch, Envelope, Pins, Receipt, Reply, decode, encode
from tests.support.cluster import Answer, Cluster, Node
from tests.support.events import Post


class Envoy:
    """One stream from nobody in particular to one worker.

    Args:
        cluster: whose secret and routes are used.
        pins: of the cluster.
        worker: to speak to.
        stream: 16 bytes.
        token: the cluster's internal token, if it has one.
    """

    def __init__(self, *, cluster: Cluster, pins: Pins, worker: Node, stream: bytes, token: str | None) -> None:
        self._cluster = cluster
        self._pins = pins
        self._worker = worker
        self._stream = stream
        self._token = token
        self._secret = bytes.fromhex((cluster.folder / "secret.key").read_text())

    @classmethod
    async def of(
        cls, cluster: Cluster, worker: Node, *, stream: bytes = b"an envoy's words", token: str | None = None
    ) -> Self:
        """One for this cluster as it is now."""
        shown = (await cluster.state())["pins"]
        pins = msgspec.convert({name: shown[name] for name in Pins.__struct_fields__}, Pins)
        return cls(cluster=cluster, pins=pins, worker=worker, stream=stream, token=token)

    def keys(self, slice_id: int) -> SliceKeys:
        """What turns names into keys in a slice of this cluster."""
        return SliceKeys(self._secret, SliceId(slice_id))

    def owns(self, slice_id: int, user: str, route: Sequence[str]) -> bool:
        """Whether the user belongs to this worker in the slice."""
        position = owner_position(self.keys(slice_id).user_key(user.encode()), len(route))
        return route[position] == self._worker.id

    def batch(self, slice_id: int, posts: Sequence[Post], *, seq: int = 1, route: Sequence[str] | None = None) -> Batch:
        """These events as a batch; their time is not looked at."""
        keys = self.keys(slice_id)
        names = tuple(dict.fromkeys(post.type for post in posts))
        ids = [
            NO_ID if post.id is None else keys.id_key(post.user.encode(), post.type, post.id.encode()) for post in posts
        ]
        own: Route = (WorkerId(self._worker.id),)
        return Batch(
            slice=SliceId(slice_id),
            seq=seq,
            route=own if route is None else tuple(map(WorkerId, route)),
            key_id=keys.key_id,
            names=names,
            kinds=bytes(names.index(post.type) for post in posts),
            users=b"".join(keys.user_key(post.user.encode()) for post in posts),
            ids=b"".join(ids) if any(post.id is not None for post in posts) else b"",
        )

    async def send(
        self, *batches: Batch, spooled: bool = False, stream: bytes | None = None, uuid: str | None = None
    ) -> list[Receipt]:
        """Deliver batches; the worker's receipts."""
        answer = await self.deliver(self.envelope(*batches, spooled=spooled, stream=stream, uuid=uuid))
        assert answer.status == 200, answer
        return list(decode(answer.body, Reply).receipts)

    def envelope(
        self, *batches: Batch, spooled: bool = False, stream: bytes | None = None, uuid: str | None = None
    ) -> bytes:
        """The batches in an envelope."""
        return encode(
            Envelope(
                cluster=self._pins.cluster,
                worker=uuid or self._pins.workers[WorkerId(self._worker.id)],
                stream=stream or self._stream,
                claims=0,
                batches=tuple(map(encode, batches)),
                spooled=spooled,
            )
        )

    async def deliver(self, body: bytes) -> Answer:
        """``POST /worker/batches`` with any body."""
        headers = {"Content-Type": MEDIA_TYPE}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return await self._cluster.ask("POST", f"{self._worker.url}/batches", body=body, headers=headers)
