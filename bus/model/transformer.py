"""Transformers: pure functions from an opened message to what goes out, with the types they take and make declared."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bus.model.message import Opened, Outgoing, child_key
from bus.model.values import ValueMaps


@dataclass(frozen=True)
class TransformContext:
    """What a transformer may know besides the message."""

    maps: ValueMaps
    """Value maps of the partner: the sender's on the way in (to=BUS), the receiving system's on the way out."""
    key: str
    """Idempotency key of the delivery (a UUID): what to put in the target's field for an external id."""

    def key_of(self, index: int) -> str:
        """The key of the index-th output, where a transformer makes several."""
        return child_key(self.key, index)


Transform = Callable[[Opened, TransformContext], Outgoing | Sequence[Outgoing]]


@dataclass(frozen=True)
class Transformer:
    """A named transform; made by the decorator `transformer`."""

    name: str
    function: Transform
    takes: tuple[str, ...]
    makes: tuple[str, ...]
    digest: str

    def __call__(self, opened: Opened, context: TransformContext) -> Outgoing | Sequence[Outgoing]:
        return self.function(opened, context)


def transformer(*, takes: str | Sequence[str], makes: str | Sequence[str]) -> Callable[[Transform], Transformer]:
    """Declare a transformer by the message types it takes and makes; `bus check` refuses a type without a contract."""

    def declare(function: Transform) -> Transformer:
        name = f"{function.__module__}.{function.__name__}"
        source = inspect.getsource(inspect.getmodule(function) or function)
        return Transformer(
            name=name,
            function=function,
            takes=(takes,) if isinstance(takes, str) else tuple(takes),
            makes=(makes,) if isinstance(makes, str) else tuple(makes),
            digest=hashlib.sha256(source.encode()).hexdigest()[:12],
        )

    return declare
