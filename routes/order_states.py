"""States of orders that execution reports: made canonical and published for whoever follows an order."""

from bus import BUS, Route, on
from transformers.mes_p200.to_canonical import order_state_changed

OWNER = "production-control@plant.example"

ROUTES = (
    Route(
        name="mes-p200-order-states-become-canonical",
        when=on("mes-p200.order-state.v1"),
        transform=order_state_changed,
        to=BUS,
        owner=OWNER,
        support="mes-p200-support@plant.example",
    ),
    Route(
        name="order-states-to-plant-events",
        when=on("order.state-changed.v1"),
        to="plant-events",
        owner=OWNER,
        support="mes-integration@plant.example",
    ),
)
