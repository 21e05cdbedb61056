"""What execution reports back: native confirmations, consumptions and outputs become canonical, the ERP books them."""

from datetime import timedelta

from bus import BUS, RetryPolicy, Route, on
from transformers.b2mml.performance_reports import performance_reports
from transformers.mes_p200.to_canonical import operation_confirm, post_consumption, report_output
from transformers.sap.confirmation import confirmation_posting
from transformers.sap.material_document import goods_issue, goods_receipt

OWNER = "production-controlling@plant.example"
ERP_SUPPORT = "erp-integration@plant.example"
MES_SUPPORT = "mes-integration@plant.example"
P200_SUPPORT = "mes-p200-support@plant.example"
# SAP answers 423 while somebody has the order open: soon again at first, then for most of an hour.
UNTIL_UNLOCKED = RetryPolicy(first=timedelta(seconds=1), max_attempts=14)

ROUTES = (
    Route(
        name="b2mml-performance-becomes-reports",
        when=on("b2mml.performance.v1"),
        transform=performance_reports,
        to=BUS,
        owner=OWNER,
        support=MES_SUPPORT,
    ),
    Route(
        name="mes-p200-confirmations-become-canonical",
        when=on("mes-p200.operation-confirm.v1"),
        transform=operation_confirm,
        to=BUS,
        owner=OWNER,
        support=P200_SUPPORT,
    ),
    Route(
        name="mes-p200-consumptions-become-canonical",
        when=on("mes-p200.consumption.v1"),
        transform=post_consumption,
        to=BUS,
        owner=OWNER,
        support=P200_SUPPORT,
    ),
    Route(
        name="mes-p200-outputs-become-canonical",
        when=on("mes-p200.output.v1"),
        transform=report_output,
        to=BUS,
        owner=OWNER,
        support=P200_SUPPORT,
    ),
    Route(
        name="confirmations-to-erp",
        when=on("operation.confirm.v1"),
        transform=confirmation_posting,
        to="erp",
        retry=UNTIL_UNLOCKED,
        owner=OWNER,
        support=ERP_SUPPORT,
    ),
    Route(
        name="consumptions-to-erp",
        when=on("material.post-consumption.v1"),
        transform=goods_issue,
        to="erp",
        retry=UNTIL_UNLOCKED,
        owner=OWNER,
        support=ERP_SUPPORT,
    ),
    Route(
        name="outputs-to-erp",
        when=on("production.report-output.v1"),
        transform=goods_receipt,
        to="erp",
        retry=UNTIL_UNLOCKED,
        owner=OWNER,
        support=ERP_SUPPORT,
    ),
)
