"""What the pipeline needs from the edges, as Protocols; each comment is the contract its conformance suite checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from bus.errors import DeliveryFailure, Exchange
from bus.model.delivery import Event, Outcome, Stage, State
from bus.model.lane import LaneKey
from bus.model.message import Message, digest_of
from bus.model.secret import Secret
from bus.model.system import Endpoint

# --- adapters ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What is sent: the transformed message and the delivery's idempotency key, the same for every retry."""

    message: Message
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The target took it. `document` is its own number of what it booked, empty where it has none."""

    document: str = ""
    exchange: Exchange = Exchange()


class Verdict(StrEnum):
    """What a probe found out about a parcel whose outcome is unknown."""

    FOUND = "found"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    verdict: Verdict
    document: str = ""
    exchange: Exchange = Exchange()


class Adapter(Protocol):
    """The I/O of one endpoint. Called from several threads at once, at most the endpoint's `concurrency`."""

    remembers_keys: bool
    """The target absorbs a repeat under the same key; without it no parcel is ever repeated blindly."""

    def send(self, parcel: Parcel) -> Answer:
        """Deliver one parcel, within the endpoint's time-out.

        Raises:
            TransientFailure: it did not happen; this parcel, later.
            EndpointDown: nothing was sent, and nothing will be until the endpoint is back.
            PermanentFailure: the target refused it; with its code and text.
            OutcomeUnknown: it may have happened.
        """

    def close(self) -> None:
        """Release connections; the adapter is not used again."""


class AdapterFactory(Protocol):
    """Makes the adapter of an endpoint; does no I/O.

    `secret(name)` resolves, at every call anew, the secret reference that stands in the endpoint's option of that
    name, so that a rotated one is found. Raises ConfigurationError for an address or option it does not understand.
    """

    def __call__(self, endpoint: Endpoint, *, secret: Callable[[str], Secret]) -> Adapter: ...


@runtime_checkable
class Probing(Protocol):
    """An adapter that can ask its target whether a parcel arrived."""

    def probe(self, parcel: Parcel) -> Finding:
        """Ask by our external id. Raises DeliveryFailure when there is no clear answer."""


@runtime_checkable
class SendingMany(Protocol):
    """An adapter to a target that remembers keys and takes several messages at once."""

    def send_many(self, parcels: Sequence[Parcel]) -> Sequence[Answer | DeliveryFailure]:
        """As `send` for each, in any order; the results stand in the order of the parcels."""


@runtime_checkable
class Checking(Protocol):
    """An adapter that can ask whether its endpoint is up, credentials included."""

    def check(self) -> None:
        """Return when it is up. Raises EndpointDown with the cause when it is not."""


# --- telemetry --------------------------------------------------------------------------------------------------------


class Telemetry(Protocol):
    """The seam for logs and metrics: one event per change of state, ids as fields, never a body."""

    def event(self, name: str, **fields: object) -> None: ...


# --- the store --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """What the store says of a (system, message id): whether it is new, and the digest that stands under it."""

    is_new: bool
    digest: bytes


class ReceiptKind(StrEnum):
    INVALID = "invalid"
    REFUSED = "refused"
    CONFLICT = "conflict"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Something received that did not become a message: kept raw, with the reason."""

    kind: ReceiptKind
    cause: str
    detail: str
    routing_key: str
    properties: Mapping[str, object]
    body: bytes
    message_id: str = ""
    system: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class ClaimCheck:
    """Stands for a body that is too large to be carried in a claim; the store brings the body when its turn comes."""

    size: int
    """Bytes."""
    digest: bytes
    """What the body must have when it is brought; empty: none was noted."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A message in the store, under its number there."""

    row: int
    message: Message
    check: ClaimCheck | None = None
    """The message lacks its body, which this stands for: see MessageStore.message_of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDelivery:
    """A delivery to insert. `lane` is None where unordered."""

    message: int
    route: str
    destination: str
    queue: str
    stage: Stage
    key: str
    lane: LaneKey | None
    state: State = State.WAITING
    blocks: bool = True
    """Whether it holds its lane when it is dead."""
    place: int = 0
    part: int = 0
    """Place in the lane, and the part of it: children of a split share their parent's place."""
    replay: int = 0
    output: Output | None = None
    cause: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a transformer made for a delivery: the exact bytes that send and its retries use."""

    type: str
    content_type: str
    body: bytes
    digest: str
    """Digests of transformer and value maps that made it."""
    check: ClaimCheck | None = None
    """It lacks its body, which this stands for: see MessageStore.output_of."""

    @property
    def body_digest(self) -> bytes:
        """SHA-256 of what is sent: type, content type, body."""
        return digest_of(self.type, self.content_type, self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery this worker owns until it settles it or its lease lapses."""

    id: int
    token: str
    stage: Stage
    state: State
    route: str
    destination: str
    queue: str
    key: str
    lane: LaneKey | None
    place: int
    part: int
    attempts: int
    deaths: int
    trips: int
    blocks: bool
    replay: int
    cause: str
    """Why it last failed."""
    kept: Kept
    output: Output | None

    @property
    def size(self) -> int:
        """Bytes of the body that its next step works on, be it carried or not."""
        if self.stage is Stage.SEND and self.output is not None:
            return self.output.check.size if self.output.check else len(self.output.body)
        return self.kept.check.size if self.kept.check else len(self.kept.message.body)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one claim took, in lane order."""

    claimed: list[Claimed]
    leaves: bool
    """Whether it saw more that is READY than it took, or may have: it took as many as it was to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One try: what was sent, what came back, what was made of it."""

    delivery: int
    stage: Stage
    number: int
    began: timedelta
    """How long before the settling transaction the attempt began and …"""
    ended: timedelta
    """… ended; the store's clock makes times of them."""
    outcome: str
    cause: str
    detail: str
    exchange: Exchange
    document: str
    worker: str
    digests: str
    """Release of the bus, digests of route, transformer and value maps."""


class TailRoom(NamedTuple):
    """The end of a locked lane."""

    follows: bool
    """Something stands in the lane."""
    ready: int
    """How many more deliveries at the tail are READY at once; see model.lane.tail_room."""


class Owned(NamedTuple):
    """A delivery that is locked to be settled."""

    state: State
    alone: bool
    """Nothing else stands in its lane, or it has none: what happens to it moves nothing there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An outcome to write. `queue` is where a transformed delivery goes on; output only after a transform."""

    claimed: Claimed
    outcome: Outcome
    queue: str = ""
    output: Output | None = None
    attempt: AttemptRecord | None = None
    produced: int | None = None
    """How many children a transform made; they are inserted in the same transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A delivery in doubt whose probe is due."""

    claimed: Claimed
    doubted_for: timedelta
    """How long ago, by the store's clock, the outcome became unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRow:
    """`open`, `paused` or `tripped`; the row that claims read."""

    name: str
    state: str
    cause: str
    detail: str
    since: datetime | None
    checks: int
    check_is_due: bool
    doubt_is_due: bool
    """Whether something in doubt there is to be probed now."""
    has_ready: bool
    """Whether anything is READY for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthTurn:
    """What became of a turn of the month."""

    month: str
    """The one that is over: 2026-01; or 2026-01 to 2026-03 where nobody turned them in time."""
    moved_along: int
    """Messages that went on into the new month, since they or their kin are not ended."""
    is_put_off: bool
    """Too much is not ended for the moment that everybody would wait: nothing was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does it: `router`, `worker:…`, or `person:login`; with why."""

    name: str
    reason: str = ""


class Transaction(Protocol):
    """One unit of work; everything or nothing. Lanes are locked before deliveries, in LaneKey.lock_order."""

    # -- receiving
    def take_ids(self, messages: Sequence[Message]) -> list[Taken]:
        """Take the (system, id) of each; `messages` hold no pair twice. Only NEW ones are taken."""

    def add_receipts(self, receipts: Sequence[Receipt]) -> None: ...

    def add_messages(
        self,
        messages: Sequence[Message],
        *,
        searchable: Sequence[Sequence[tuple[str, str]]],
        parents: Sequence[int | None],
        planned: Sequence[tuple[int, int]],
    ) -> list[Kept]:
        """Insert in order; numbers rise in that order. `parents`: the delivery each was made by, None: received;
        `planned`: how many deliveries each plans, and how many of its deliveries to the bus still enter."""

    def forget_openings(self, digests: Sequence[bytes]) -> None: ...

    # -- planning
    def lock_lanes(self, lanes: Mapping[LaneKey, int]) -> dict[LaneKey, int]:
        """Lock the lanes, creating missing ones, and take that many places; returns the last place taken before."""

    def lock_known_lanes(self, lanes: Collection[LaneKey]) -> None:
        """Lock lanes that exist: in which something stands, or stood."""

    def tail_rooms(self, lanes: Collection[LaneKey]) -> dict[LaneKey, TailRoom]:
        """What stands in each of these (locked) lanes, and what may be added to it."""

    def add_deliveries(self, deliveries: Sequence[NewDelivery]) -> None:
        """Insert and count them."""

    def note_planned(self, planned: Mapping[int, tuple[int, int]]) -> None:
        """message row → (change of its planned deliveries, of its bus deliveries still entering); counts totals."""

    def next_replay(self, delivery: int) -> int:
        """The number a repeat of this delivery gets; its message stays locked, so that nobody else gets it too.

        What lies in a closed month comes back into the open one, with everything that belongs to it.
        """

    def made_by(self, message: int) -> int:
        """The delivery whose transform made this message; 0: it was received."""

    def advance(self, lanes: Collection[LaneKey]) -> set[str]:
        """Make READY what may run of each (locked) lane, and nothing else; returns the queues that have work now.

        Of a deep lane at least half of RUN is READY, so that most settlements change nothing in it.
        """

    # -- settling
    def own(self, claims: Sequence[tuple[int, str]]) -> dict[int, Owned]:
        """Lock these deliveries; those that still bear their token and are CLAIMED, SENDING or IN_DOUBT by it.

        Their lanes are locked by now.
        """

    def settle(self, settled: Sequence[Settled], *, owned: Mapping[int, Owned], actor: Actor) -> None:
        """Write the outcomes of owned deliveries (`owned`: as own() gave them), attempts, journal rows, totals.

        What stands alone in its lane and may go on is READY at once; other lanes are to be advanced.
        """

    def record_late(self, late: Sequence[Settled]) -> None:
        """The attempts of those that are somebody else's by now, or ended; none of a delivery that is not here.

        One may have been dropped with its month; a store that was restored may know another one by its number.
        """

    def write_journal(self, actor: Actor, act: str, **what: object) -> None:
        """One row of the journal: who did what, when (the store's clock), why, old and new."""


class MessageStore(Protocol):
    """The one truth about every message and delivery. Every method may raise StoreUnavailable or StoreConflict."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Commits at the end of the block, rolls back on an exception.

        Raises:
            DataRefused: the database cannot keep a value of the batch.
        """

    def note_opening(self, digest: bytes) -> int:
        """Note that a redelivered body is about to be opened; returns how often that was noted before."""

    def claim(self, queue: str, *, worker: str, token: str, limit: int) -> Batch:
        """The oldest READY of the queue that may run, marked CLAIMED. Empty where the endpoint is not open.

        A laned one only if nothing stands before it except what is claimed with it; in lane order. One with deaths
        is claimed alone; of those that the next death would make DEAD one runs at a time, in whatever queue. Large
        bodies stay in the store, a ClaimCheck stands for each.
        """

    def message_of(self, claimed: Claimed) -> Message:
        """The message with its body, brought from the store where a ClaimCheck stands for it.

        Raises:
            PermanentFailure: body.missing, body.altered.
        """

    def output_of(self, claimed: Claimed) -> Output | None:
        """What its transform made, likewise; None: it has no output.

        Raises:
            PermanentFailure: body.missing, body.altered.
        """

    def claim_trial(self, queue: str, *, worker: str, token: str) -> list[Claimed]:
        """The head of a lane of an endpoint that is not open, to try it with; the one tried least."""

    def has_ready(self, queue: str) -> bool:
        """Whether anything is READY in the queue, be it held."""

    def mark_sending(self, delivery: int, token: str) -> bool:
        """CLAIMED → SENDING, just before the call; False: it is not ours any more."""

    def claim_doubts(self, queue: str, *, limit: int, again_in: timedelta) -> list[Doubt]:
        """Deliveries in doubt whose probe is due; their next one is put off."""

    def settle_doubt(
        self,
        delivery: int,
        event: Event,
        *,
        actor: Actor,
        of_claim: str | None = None,
        attempt: AttemptRecord | None = None,
        document: str = "",
    ) -> set[str]:
        """FOUND or ABSENT, if it still is in doubt; returns queues that have work now.

        `of_claim`: the token of the claim whose call is in doubt; a finding about an older doubt settles nothing.
        """

    def put_off_doubt(
        self, delivery: int, *, of_claim: str, attempt: AttemptRecord | None, again_in: timedelta | None
    ) -> None:
        """The probe gave no answer that counts: recorded, and asked again later (None: by a person only)."""

    def endpoint(self, name: str) -> EndpointRow: ...

    def trip(self, name: str, *, cause: str, detail: str, check_in: timedelta, actor: Actor) -> bool:
        """Open → tripped. Returns whether it changed."""

    def put_off_check(self, name: str, *, check_in: timedelta, cause: str = "", detail: str = "") -> bool:
        """Take the due check (no cause), or write down how it failed (cause); False: somebody else took it."""

    def reopen(self, name: str, *, actor: Actor) -> bool:
        """Tripped → open. Returns whether it changed."""

    # -- what people order
    def deliveries(self, numbers: Collection[int]) -> list[Claimed]:
        """The deliveries with their messages, whatever their state; those that are not there are left out.

        Raises:
            NotFound: one was dropped with its month.
        """

    def move(
        self, deliveries: Sequence[int], event: Event, *, expected: State, actor: Actor, **values: object
    ) -> set[str]:
        """REPLAY, DISCARD … of those in the expected state, journalled; returns queues that have work now."""

    # -- the relay
    def wake_due(self, *, limit: int) -> set[str]:
        """Retries that are due become READY or WAITING; returns queues that have work now."""

    def queues_with_work(self, *, queues: Collection[str], older_than: timedelta) -> set[str]:
        """Of these queues those with READY older than that at open endpoints, due probes, or due endpoint checks."""

    def claims_of(self, worker: str) -> set[str]:
        """Tokens of the claims under which the store holds deliveries for a worker."""

    def bury_worker(
        self, worker: str, *, actor: Actor, claims: Collection[str] | None = None, died: bool = True
    ) -> set[str]:
        """Settle everything a dead worker held, or what it held by these claims; returns queues that have work.

        `died=False`: it gives back by itself what it has no time to finish, and no delivery is to blame for its end.
        """

    def end_lease(self, name: str, *, seen: tuple[str, int]) -> bool:
        """Take a lease away that still stands where it was seen (holder, counter); False: it was beaten since."""

    def beat(self, name: str, holder: str) -> bool:
        """Count this holder's lease on; False: it is somebody else's."""

    def take_lease(self, name: str, holder: str, *, instead_of: tuple[str, int] | None) -> bool:
        """Take a free lease, or the one last seen at (holder, counter)."""

    def leases(self) -> dict[str, tuple[str, int]]:
        """name → (holder, counter) of every lease."""

    def drop_lease(self, name: str, holder: str) -> None:
        """The holder leaves by itself."""

    def workers_without_lease(self) -> set[str]:
        """Workers that hold deliveries and have no lease: they went away without settling."""

    def fold_totals(self) -> None:
        """Replace the deltas of each total by their sum; what is counted meanwhile is not lost."""

    def turn_month(self, *, actor: Actor) -> MonthTurn | None:
        """Where the month is over by the store's clock, close it and open the next; None: there was nothing to do.

        What is not ended moves along, with everything that belongs to it. SQLite keeps all in one, and returns None.

        Raises:
            StoreConflict: others were at work, nothing was done; try again later.
            StoreRefuses: the store's user lacks the right.
        """

    def checkpoint(self) -> None:
        """Move what was committed to where it stays, beside the writers; call it about once a second."""
