"""Conditions on states as the partial indexes spell them: with a parameter no plan but one made anew may use them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, literal_column, or_

from bus.model.delivery import Stage, State
from bus.model.message import BUS
from bus.store import tables as t

HELD = (State.CLAIMED, State.SENDING)
"""States that share one partial index: its condition is to stand in the query as it stands in the index."""


def in_state(column: ColumnElement[Any], *states: State) -> ColumnElement[bool]:
    """Whether it is one of these states; their words stand in the statement's text."""
    words = [_word(state) for state in states]
    if len(words) == 1 and states[0] in HELD:
        return and_(column.in_([_word(state) for state in HELD]), column == words[0])
    return column == words[0] if len(words) == 1 else column.in_(words)


def takes_turns(d: Any) -> ColumnElement[bool]:
    """Whether a delivery's next step waits for its turn in the lane: a transform runs ahead, unless the bus follows.

    `d`: the columns of `delivery`, of an alias or of a subquery.
    """
    return or_(d.stage == _word(Stage.SEND), d.destination == _word(BUS))


def _word(value: str) -> ColumnElement[str]:
    return literal_column(f"'{value}'", t.delivery.c.state.type)
