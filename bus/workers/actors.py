"""One Dramatiq actor per queue: a hint arrives, the pipeline's function for that queue runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dramatiq import Actor, Broker

from bus.errors import NotAvailable, StoreConflict, StoreRefuses
from bus.ports import Telemetry

Work = Callable[[], None]


def declare_actors(
    broker: Broker, work: Mapping[str, Work], *, telemetry: Telemetry, give_up: Callable[[], None] = lambda: None
) -> None:
    """Let each hint on a queue run that queue's work, which claims from the store what there is to do.

    A work that raises NotAvailable or StoreConflict has its hint spent: what it did not do is still in the
    store and the relay will hint at it again. Where the store refuses for good, `give_up` is called besides: the
    process is to end. Any other error sends the hint to the dead letters.
    """
    for queue, claim_and_do in work.items():
        Actor(
            _on_hint(queue, claim_and_do, telemetry, give_up),
            broker=broker,
            actor_name=queue,
            queue_name=queue,
            priority=0,
            options={"max_retries": 0},
        )


def _on_hint(
    queue: str, claim_and_do: Work, telemetry: Telemetry, give_up: Callable[[], None]
) -> Callable[[int], None]:
    def work(version: int) -> None:
        try:
            claim_and_do()
        except (NotAvailable, StoreConflict) as error:
            telemetry.event("hint spent", queue=queue, error=str(error))
            if isinstance(error, StoreRefuses):
                give_up()
        except Exception as error:
            telemetry.event("hint failed", queue=queue, error=repr(error))
            raise

    return work
