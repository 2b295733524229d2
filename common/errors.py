"""Every error that Tallyslice raises on purpose, and whose fault each one is.

::

    TallysliceError
    +-- RequestError                 somebody asked for something: has an HTTP status
    |   +-- Malformed          400   the client's fault: a field is missing, twice, or not readable
    |   +-- Unauthorized       401   no token, or none that is known, where one is needed
    |   +-- Forbidden          403   a token, but not for this
    |   +-- NotHere            404   no such resource
    |   +-- TooSlow            408   the request did not arrive in time
    |   +-- Contradicts        409   the request is well formed, but does not fit what is held here
    |   |   +-- WrongCluster           it is meant for another cluster
    |   |   +-- WrongWorker            it is meant for another worker, or for another data directory of this one
    |   |   +-- RegistryBehind         the caller knows more claims than this registry: it is old, or empty
    |   +-- TooLarge           413   the body is over its bound
    |   +-- WrongMediaType     415   the body is of a type that is not read here
    |   +-- OutsideWindow      422   the timestamp is too far in the past or the future
    |   +-- SliceClosed        422   the slice has ended for good
    |   +-- TooManySlices      422   the cluster holds as many open slices as it may
    |   +-- TooManyRequests    429   somebody has called as often as he may, for now
    |   +-- Unavailable        503   our fault, or the network's: try again
    |       +-- NotTaken             the event was refused at the door: surely not counted
    |       +-- OutcomeUnknown       the event was on its way when its deadline passed: may yet be counted
    |       +-- NoAnswer             a question found a worker or the registry away
    +-- WireError                    another node sent bytes that are not of the protocol
    +-- PeerError                    a call to another node did not get its answer
    |   +-- PeerAway                 it did not answer in time, or nobody listens there
    |   +-- PeerRefuses              it answered that it will not
    +-- ExitError                    the process cannot go on: has an exit code
        +-- PortInUse           69   somebody else listens there
        +-- InputOutputFailed   70   the disk or the file system refused
        +-- DirectoryOwned      75   another process owns the data directory
        +-- NotPermitted        77   a node wants a token, or another one
        +-- ConfigRefused       78   the cluster file is wrong, or contradicts what the cluster has pinned

Messages name the thing and the offending value, and never a user, an address or a query string.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar

EXIT_USAGE = 64


class TallysliceError(Exception):
    """The root: whatever Tallyslice raises on purpose."""


class RequestError(TallysliceError):
    """Something that a caller asked for cannot be done.

    Attributes:
        status: the HTTP status of the answer.
        slug: the last part of the problem type, stable for programs.
        title: the same for people; it does not vary with the occurrence.
        detail: what happened this time.
        field: the name of the offending field, where there is one.
        retry_after_seconds: when trying again makes sense, where it does.
        headers: what else the head of the answer says.
        request_id: what workers were asked as, if any were for a request that has no other id.
    """

    request_id: str | None = None
    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong here"

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        retry_after_seconds: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers or {}


class Malformed(RequestError):
    """A field is missing, given twice, or cannot be read."""

    status = HTTPStatus.BAD_REQUEST
    slug = "malformed"
    title = "The request cannot be understood"


class Unauthorized(RequestError):
    """A token is needed, and none came that is known."""

    status = HTTPStatus.UNAUTHORIZED
    slug = "unauthorized"
    title = "A bearer token is needed"


class Forbidden(RequestError):
    """A token came, but it does not open this door."""

    status = HTTPStatus.FORBIDDEN
    slug = "forbidden"
    title = "This bearer token is not accepted"


class NotHere(RequestError):
    """There is nothing under this name."""

    status = HTTPStatus.NOT_FOUND
    slug = "not-found"
    title = "There is nothing here"


class TooSlow(RequestError):
    """The request's body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    slug = "too-slow"
    title = "The request took too long to arrive"


class Contradicts(RequestError):
    """The request does not fit what this node holds, such as a user that belongs to another worker."""

    status = HTTPStatus.CONFLICT
    slug = "conflict"
    title = "The request contradicts what is held here"


class WrongCluster(Contradicts):
    """The caller means another cluster than the one that this node has joined."""

    slug = "wrong-cluster"
    title = "This node belongs to another cluster"


class WrongWorker(Contradicts):
    """The caller means another worker, or another data directory than this worker's."""

    slug = "wrong-worker"
    title = "This is not the worker that is meant"


class RegistryBehind(Contradicts):
    """The caller knows of more claims than this registry: it was lost, or set back, and must be rebuilt."""

    slug = "registry-behind"
    title = "The registry is older than what is known of it"


class TooLarge(RequestError):
    """The body is over its bound."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "too-large"
    title = "The request is too large"


class WrongMediaType(RequestError):
    """The body's media type is not read here."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    slug = "media-type"
    title = "This media type is not read here"


class OutsideWindow(RequestError):
    """The timestamp is further away from now than the config allows."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "outside-window"
    title = "The timestamp is outside the accepted window"


class SliceClosed(RequestError):
    """The slice has ended for good; its summary stays, new events are refused."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "slice-closed"
    title = "The slice is closed"


class TooManySlices(RequestError):
    """One more slice would be more than ``max-slices``."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    slug = "too-many-slices"
    title = "The cluster holds as many open slices as it may"


class TooManyRequests(RequestError):
    """Somebody has called as often as he may; nothing of the request was done."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    slug = "too-many-requests"
    title = "There were too many requests in a short time"


class Unavailable(RequestError):
    """Not now: the fault is on our side, or between our nodes, and goes away."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    slug = "unavailable"
    title = "Not available right now"

    def __init__(self, detail: str, *, field: str | None = None, retry_after_seconds: int | None = 1) -> None:
        super().__init__(detail, field=field, retry_after_seconds=retry_after_seconds)


class NotTaken(Unavailable):
    """The event was refused at the door: it is not counted and never will be, so sending it again is safe."""

    slug = "not-taken"
    title = "The event was not taken"


class OutcomeUnknown(Unavailable):
    """The event was in a batch when its deadline passed: it may yet be counted. Retry it with its ``id``."""

    slug = "outcome-unknown"
    title = "It is not known yet whether the event will be counted"


class NoAnswer(Unavailable):
    """A question could not be answered completely, so it is not answered at all."""

    slug = "no-answer"
    title = "A complete answer is not available"


class WireError(TallysliceError):
    """Bytes from another node that are not of the protocol, or over its bounds."""


class PeerError(TallysliceError):
    """A call to another node did not get the answer that it asked for.

    Attributes:
        request_id: what the call was named, in the other node's log too.
        answered: whether the other node gave an answer, so that its log may say more.
    """

    request_id: str | None = None
    answered: bool = False


class PeerAway(PeerError):
    """The node did not answer in time, cannot be connected to, or says itself that it cannot right now."""


class PeerRefuses(PeerError):
    """The node answered that it will not; asking again the same way gets the same answer.

    Attributes:
        slug: the last part of the problem type that it gave.
    """

    def __init__(self, detail: str, *, slug: str) -> None:
        super().__init__(detail)
        self.slug = slug


class ExitError(TallysliceError):
    """The process cannot start or go on.

    Attributes:
        exit_code: what the process leaves with (values of BSD sysexits.h).
    """

    exit_code: ClassVar[int] = 1


class PortInUse(ExitError):
    """Somebody else listens where this node's URL says."""

    exit_code = 69


class InputOutputFailed(ExitError):
    """The disk, or the file system, refused."""

    exit_code = 70


class DirectoryOwned(ExitError):
    """Another process owns the data directory."""

    exit_code = 75


class NotPermitted(ExitError):
    """A node that a command asks wants a token, or another one."""

    exit_code = 77


class ConfigRefused(ExitError):
    """The cluster file cannot be used: wrong in itself, or against what the cluster has pinned.

    Attributes:
        problems: every problem found, each with its JSON path.
    """

    exit_code = 78

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
