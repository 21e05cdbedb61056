"""Stands for an endpoint whose adapter cannot be made: its deliveries are held, and nobody else is disturbed."""

from __future__ import annotations

from typing import NoReturn

from bus.errors import EndpointDown
from bus.ports import Parcel


class UnopenedAdapter:
    """Sends nothing, and says why. `bus run` makes the real one when it is started again."""

    remembers_keys = False

    def __init__(self, detail: str) -> None:
        """`detail`: what the endpoint lacks."""
        self._detail = detail

    def send(self, parcel: Parcel) -> NoReturn:
        """
        Raises:
            EndpointDown: endpoint.not-opened.
        """
        self.check()

    def probe(self, parcel: Parcel) -> NoReturn:
        """What is in doubt stays so, and is asked about again when the endpoint is back.

        Raises:
            EndpointDown: endpoint.not-opened.
        """
        self.check()

    def check(self) -> NoReturn:
        """
        Raises:
            EndpointDown: endpoint.not-opened.
        """
        raise EndpointDown("endpoint.not-opened", self._detail)

    def close(self) -> None:
        """There is nothing to release."""
