"""Production orders, from planning to execution: native orders become releases, releases go to their site's MES."""

from datetime import timedelta

from bus import BUS, RetryPolicy, Route, field, on
from transformers.b2mml.schedule import order_releases
from transformers.b2mml.schedule_writer import operations_schedule
from transformers.sap.production_order import order_release

OWNER = "production-planning@plant.example"
SUPPORT = "mes-integration@plant.example"
PATIENT = RetryPolicy(first=timedelta(seconds=1), max_attempts=10)

ROUTES = (
    Route(
        name="sap-orders-become-releases",
        # Only what SAP says may be executed. An order that is not released, or is technically completed or deleted,
        # is kept and goes nowhere.
        when=on("sap.production-order.v2")
        & (field("OrderIsReleased") == "X")
        & (field("OrderIsTechnicallyCompleted") != "X")
        & (field("OrderIsDeleted") != "X"),
        transform=order_release,
        to=BUS,
        owner=OWNER,
        support="erp-integration@plant.example",
    ),
    Route(
        name="b2mml-schedules-become-releases",
        when=on("b2mml.operations-schedule.v1"),
        transform=order_releases,
        to=BUS,
        owner=OWNER,
        support=SUPPORT,
    ),
    Route(
        name="released-orders-to-mes-p100",
        when=on("order.release.v1") & (field("site") == "P100") & (field("quantity.value") > 0),
        transform=operations_schedule,
        to="mes-p100",
        retry=PATIENT,
        owner=OWNER,
        support=SUPPORT,
    ),
    Route(
        name="released-orders-to-mes-p200",
        when=on("order.release.v1") & (field("site") == "P200") & (field("quantity.value") > 0),
        to="mes-p200",
        retry=PATIENT,
        owner=OWNER,
        support="mes-p200-support@plant.example",
    ),
)
