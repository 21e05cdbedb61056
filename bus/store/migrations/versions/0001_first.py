"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

from bus.store import tables as t

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endpoint",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("since", t.Instant(), nullable=False),
        sa.Column("check_at", t.Instant(), nullable=True),
        sa.Column("checks", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_endpoint")),
    )
    op.create_table(
        "journal",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("at", t.Instant(), nullable=False),
        sa.Column("login", sa.Text(), server_default="", nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("delivery", sa.BigInteger(), nullable=True),
        sa.Column("message", sa.BigInteger(), nullable=True),
        sa.Column("endpoint", sa.Text(), server_default="", nullable=False),
        sa.Column("old", sa.Text(), nullable=False),
        sa.Column("new", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_journal_delivery", "journal", ["delivery"], unique=False)
    op.create_table(
        "lane",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("destination", t.Bytewise(), nullable=False),
        sa.Column("key", t.Bytewise(), nullable=False),
        sa.Column("tail", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lane")),
        sa.UniqueConstraint("destination", "key", name=op.f("uq_lane_destination_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", t.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "message",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("system", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("correlation_id", sa.Text(), nullable=False),
        sa.Column("causation_id", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("time", t.Instant(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("business_date", sa.Date(), nullable=True),
        sa.Column("dataschema", sa.Text(), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("accepted_at", t.Instant(), nullable=False),
        sa.Column("parent", sa.BigInteger(), nullable=True),
        sa.Column("planned", sa.Integer(), nullable=False),
        sa.Column("entering", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_message_accepted", "message", ["accepted_at"], unique=False)
    op.create_index("ix_message_correlation", "message", ["correlation_id"], unique=False)
    op.create_index("ix_message_message_id", "message", ["message_id"], unique=False)
    op.create_index(
        "ix_message_parent",
        "message",
        ["parent"],
        unique=False,
        postgresql_where=sa.text("parent IS NOT NULL"),
        sqlite_where=sa.text("parent IS NOT NULL"),
    )
    op.create_index("ix_message_subject", "message", ["subject", "id"], unique=False)
    op.create_index("ix_message_system", "message", ["system", "id"], unique=False)
    op.create_index("ix_message_type", "message", ["type", "id"], unique=False)
    op.create_table(
        "message_key",
        sa.Column("system", t.Bytewise(), nullable=False),
        sa.Column("message_id", t.Bytewise(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("at", t.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("system", "message_id", name=op.f("pk_message_key")),
    )
    op.create_table(
        "opening",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("at", t.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_opening")),
    )
    op.create_table(
        "receipt",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("at", t.Instant(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("properties", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("system", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_receipt")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_receipt_kind", "receipt", ["kind", "id"], unique=False)
    op.create_table(
        "total",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("measure", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_total")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "delivery",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("message", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("lane", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stands", sa.Boolean(), nullable=False),
        sa.Column("blocks", sa.Boolean(), nullable=False),
        sa.Column("worker", sa.Text(), server_default="", nullable=False),
        sa.Column("token", sa.Text(), server_default="", nullable=False),
        sa.Column("due_at", t.Instant(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deaths", sa.Integer(), server_default="0", nullable=False),
        sa.Column("trips", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("replay", sa.Integer(), server_default="0", nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("produced", sa.Integer(), nullable=True),
        sa.Column("cause", sa.Text(), server_default="", nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("document", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", t.Instant(), nullable=False),
        sa.Column("changed_at", t.Instant(), nullable=False),
        sa.ForeignKeyConstraint(["lane"], ["lane.id"], name=op.f("fk_delivery_lane")),
        sa.ForeignKeyConstraint(["message"], ["message.id"], name=op.f("fk_delivery_message")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("message", "route", "part", "replay", name=op.f("uq_delivery_message_route_part_replay")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_delivery_dead",
        "delivery",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state = 'DEAD'"),
        sqlite_where=sa.text("state = 'DEAD'"),
    )
    op.create_index(
        "ix_delivery_document",
        "delivery",
        ["document"],
        unique=False,
        postgresql_where=sa.text("document <> ''"),
        sqlite_where=sa.text("document <> ''"),
    )
    op.create_index(
        "ix_delivery_doubt",
        "delivery",
        ["queue", "due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'IN_DOUBT'"),
        sqlite_where=sa.text("state = 'IN_DOUBT'"),
    )
    op.create_index(
        "ix_delivery_due",
        "delivery",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'RETRYING'"),
        sqlite_where=sa.text("state = 'RETRYING'"),
    )
    op.create_index(
        "ix_delivery_held",
        "delivery",
        ["worker"],
        unique=False,
        postgresql_where=sa.text("state IN ('CLAIMED', 'SENDING')"),
        sqlite_where=sa.text("state IN ('CLAIMED', 'SENDING')"),
    )
    op.create_index(
        "ix_delivery_ready",
        "delivery",
        ["queue", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'READY'"),
        sqlite_where=sa.text("state = 'READY'"),
    )
    op.create_index(
        "ix_delivery_ready_since",
        "delivery",
        ["queue", "changed_at"],
        unique=False,
        postgresql_where=sa.text("state = 'READY'"),
        sqlite_where=sa.text("state = 'READY'"),
    )
    op.create_index(
        "ix_delivery_running",
        "delivery",
        ["lane"],
        unique=False,
        postgresql_where=sa.text("state IN ('CLAIMED', 'SENDING')"),
        sqlite_where=sa.text("state IN ('CLAIMED', 'SENDING')"),
    )
    op.create_index(
        "ix_delivery_standing",
        "delivery",
        ["lane", "place", "part"],
        unique=False,
        postgresql_where=sa.text("stands"),
        sqlite_where=sa.text("stands = 1"),
    )
    op.create_table(
        "search_value",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("message", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["message"], ["message.id"], name=op.f("fk_search_value_message")),
        sa.PrimaryKeyConstraint("path", "value", "message", name=op.f("pk_search_value")),
    )
    op.create_table(
        "attempt",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("delivery", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("began_at", t.Instant(), nullable=False),
        sa.Column("ended_at", t.Instant(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("sent", sa.LargeBinary(), nullable=False),
        sa.Column("received", sa.LargeBinary(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("digests", sa.Text(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["delivery"], ["delivery.id"], name=op.f("fk_attempt_delivery")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_attempt_delivery", "attempt", ["delivery"], unique=False)
    op.create_index(
        "ix_attempt_document",
        "attempt",
        ["document"],
        unique=False,
        postgresql_where=sa.text("document <> ''"),
        sqlite_where=sa.text("document <> ''"),
    )
    op.create_table(
        "output",
        sa.Column(
            "delivery", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["delivery"], ["delivery.id"], name=op.f("fk_output_delivery")),
        sa.PrimaryKeyConstraint("delivery", name=op.f("pk_output")),
    )
    _protect_journal()


def _protect_journal() -> None:
    """The journal is append-only: the database itself refuses to change or delete a row."""
    if op.get_bind().dialect.name == "sqlite":
        for act in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER journal_no_{act.lower()} BEFORE {act} ON journal "
                "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
            )
        # INSERT OR REPLACE deletes the old row without asking the trigger for DELETE.
        op.execute(
            "CREATE TRIGGER journal_no_replace BEFORE INSERT ON journal "
            "WHEN EXISTS (SELECT 1 FROM journal WHERE id = NEW.id) "
            "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION journal_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the journal is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER journal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journal "
        "FOR EACH STATEMENT EXECUTE FUNCTION journal_append_only()"
    )
    op.execute(
        "CREATE FUNCTION journal_stamp() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.login := session_user; RETURN NEW; END $$"
    )
    op.execute("CREATE TRIGGER journal_stamp BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION journal_stamp()")
