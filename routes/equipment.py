"""What machines report: published for whoever listens; in a class of its own, so that it delays no transaction."""

from bus import Route, on

ROUTES = (
    Route(
        name="equipment-status-to-machine-events",
        when=on("equipment.status-changed.v1"),
        to="machine-events",
        # A later status supersedes an earlier one: one that cannot be published must not hold back the next.
        on_dead="skip",
        owner="shopfloor-it@plant.example",
        support="shopfloor-it@plant.example",
    ),
)
