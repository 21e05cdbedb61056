"""A hint on the wire: a Dramatiq message in JSON that carries nothing but the version of its own form."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from dramatiq import Message
from dramatiq.encoder import JSONEncoder

from bus.errors import MessageInvalid, Violation

VERSION = 1
LONGEST = 4096  # bytes; a hint is about 200
_LONGEST_ID = 64
_FIELDS = {field.name for field in dataclasses.fields(Message)}


def hint_for(queue: str) -> Message[None]:
    """A new hint that there is work for this queue; its actor bears the name of the queue."""
    return Message(queue_name=queue, actor_name=queue, args=(VERSION,), kwargs={}, options={})


def encode(message: Message[Any]) -> bytes:
    """The bytes of a Dramatiq message, as JSON whatever encoder was made Dramatiq's global one."""
    return JSONEncoder().encode(message.asdict())


def decode(body: bytes, *, queue: str) -> Message[None]:
    """The hint that came out of this queue; nothing of it but its id and time is taken over.

    Dramatiq 2.2.1 obeys what a message says of itself: `actor_name` picks the code, `queue_name` the consumer that
    acknowledges, `options` override retries and callbacks, and a value of the wrong type ends a worker thread or stops
    the queue. Hence the exact comparison.

    Raises:
        MessageInvalid: it is no hint for this queue; the cause says why, without the body.
    """
    if len(body) > LONGEST:
        raise _invalid("hint.too-long", f"{len(body)} bytes, at most {LONGEST}")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _invalid("hint.not-json", type(error).__name__) from None
    if not isinstance(fields, dict):
        raise _invalid("hint.not-a-hint", "not an object")
    if fields.get("actor_name") != queue or fields.get("queue_name") != queue:
        raise _invalid("hint.unknown-actor", f"only the actor {queue!r} works here")
    if fields.get("args") != [VERSION]:
        raise _invalid("hint.unknown-version", f"known is {VERSION}")
    return _message(fields, queue=queue)


def _message(fields: dict[str, Any], *, queue: str) -> Message[None]:
    identity, timestamp = fields.get("message_id"), fields.get("message_timestamp")
    if not isinstance(identity, str) or len(identity) > _LONGEST_ID or not isinstance(timestamp, int):
        raise _invalid("hint.not-a-hint", "message_id or message_timestamp")
    if fields.keys() != _FIELDS or fields["kwargs"] != {} or fields["options"] != {}:
        raise _invalid("hint.not-a-hint", "kwargs and options must be empty, and nothing else be there")
    return Message(
        queue_name=queue,
        actor_name=queue,
        args=(VERSION,),
        kwargs={},
        options={},
        message_id=identity,
        message_timestamp=timestamp,
    )


def _invalid(cause: str, rule: str) -> MessageInvalid:
    return MessageInvalid(cause, Violation("", rule))
