"""What stands for an endpoint that cannot be opened sends nothing, and forgets no doubt."""

from __future__ import annotations

import pytest

from bus.connectors.unopened import UnopenedAdapter
from bus.errors import EndpointDown
from bus.model.message import Message
from bus.ports import Adapter, Checking, Parcel, Probing

PARCEL = Parcel(
    message=Message(
        id="m-1", type="order.release.v1", system="erp", site="P1", subject="", body=b"", content_type="text/plain"
    ),
    key="k",
)


@pytest.mark.parametrize("act", ["send", "probe", "check"])
def test_whatever_is_asked_of_it_the_endpoint_is_down_and_says_why(act: str) -> None:
    adapter = UnopenedAdapter("secret env:X: the variable is not set")

    with pytest.raises(EndpointDown) as caught:
        getattr(adapter, act)(*([] if act == "check" else [PARCEL]))

    assert caught.value.cause == "endpoint.not-opened"
    assert caught.value.detail == "secret env:X: the variable is not set"


def test_it_can_be_checked_and_probed_and_repeats_nothing_blindly() -> None:
    adapter: Adapter = UnopenedAdapter("")

    # Without a probe its doubts would be left to a person, for good.
    assert isinstance(adapter, Probing)
    assert isinstance(adapter, Checking)
    assert not adapter.remembers_keys
