"""Months: what is closed lies in the schema `history`; the tables that the bus works on stay plain and small.

PostgreSQL: the tables of a month are the partitions of parents in `history`, and so are the live tables. A later change
of columns is one of the parents; a later index is made on the live tables, and goes along with every turn.
"""

import sqlalchemy as sa
from alembic import op

from bus.store import tables as t

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = ("message", "delivery", "output", "attempt", "search_value", "journal", "receipt")
_NUMBERED = ("message", "delivery", "attempt", "journal", "receipt")


def upgrade() -> None:
    op.create_table(
        "period",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("began_at", t.Instant(), nullable=False),
        sa.Column("closed_at", t.Instant(), nullable=True),
        sa.Column("moved_along", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("retired_at", t.Instant(), nullable=True),
        sa.Column("actor", sa.Text(), server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("rows", sa.Text(), server_default="", nullable=False),
        sa.Column("ledger", sa.Text(), server_default="", nullable=False),
        sa.Column("numbers", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_period")),
    )
    for table in _TABLES:
        op.add_column(table, sa.Column("period", sa.Integer(), server_default="1", nullable=False))
    if op.get_bind().dialect.name == "sqlite":
        op.execute(_FIRST_PERIOD.format(now="strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"))
        return
    op.execute(_FIRST_PERIOD.format(now="clock_timestamp()"))
    op.execute("CREATE SCHEMA history")
    for table in _NUMBERED:
        _number_from_a_sequence(table)
    for table in _TABLES:
        op.execute(f"CREATE TABLE history.{table} (LIKE {table}) PARTITION BY LIST (period)")
        op.execute(f"ALTER TABLE history.{table} ATTACH PARTITION {table} FOR VALUES IN (1)")
    op.execute(
        "CREATE INDEX ix_search_value_message ON search_value "
        "USING brin (message) WITH (pages_per_range = 32, autosummarize = on)"
    )
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    op.execute(sa.text(_TURN.replace("{live}", schema).replace(":", r"\:")))
    op.execute("REVOKE EXECUTE ON FUNCTION history.turn(integer, integer) FROM PUBLIC")


_FIRST_PERIOD = (
    "INSERT INTO period (number, began_at) SELECT 1, COALESCE(MIN(began), {now}) FROM "
    "(SELECT MIN(accepted_at) AS began FROM message UNION ALL SELECT MIN(at) FROM receipt) AS first"
)
"""What is there already is of one period: as if nothing had been turned since the first of it."""


def _number_from_a_sequence(table: str) -> None:
    """Numbers rise from month to month; the column of a partition can have no identity of its own.

    The sequence belongs to no table: it stays where it is when the table becomes that of a month.
    """
    last = op.get_bind().execute(sa.text(f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))")).scalar_one()
    op.execute(f"ALTER TABLE {table} ALTER id DROP IDENTITY")
    op.execute(f"CREATE SEQUENCE {table}_id_seq START {last}")
    op.execute(f"ALTER TABLE {table} ALTER id SET DEFAULT nextval('{table}_id_seq')")


# It runs with the rights of whoever made the tables: the bus works as a user who may neither make nor rename any.
_TURN = """
CREATE FUNCTION history.turn(expected integer, at_most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {live}, pg_temp AS $turn$
-- Closes the period, if it is the open one: its tables become those of a month, new ones take their place. Returns how
-- many messages moved along, because they or their kin are not ended; -1: more than at_most are not, nothing was done;
-- null: it is closed already. Raises lock_not_available where others are at work for too long: to be tried again.
DECLARE
    turned CONSTANT text[] := ARRAY['delivery', 'message', 'output', 'attempt', 'search_value', 'journal', 'receipt'];
    -- Who waits behind these locks must not be held to be in a deadlock, which is looked for after deadlock_timeout.
    patience CONSTANT interval := least('400 ms', current_setting('deadlock_timeout')::interval / 2);
    following CONSTANT integer := expected + 1;
    unended CONSTANT text := $q$
        SELECT message FROM delivery WHERE state = 'READY'
        UNION ALL SELECT message FROM delivery WHERE state = 'WAITING' AND stands
        UNION ALL SELECT message FROM delivery WHERE state = 'RETRYING'
        UNION ALL SELECT message FROM delivery WHERE state IN ('CLAIMED', 'SENDING')
        UNION ALL SELECT message FROM delivery WHERE state = 'IN_DOUBT'
        UNION ALL SELECT message FROM delivery WHERE state = 'DEAD'
    $q$;
    until timestamptz;
    name text;
    step text;
    columns text;
    kin text;
    waits bigint;
    moving bigint[];
    deliveries bigint[];
    to_rename text[];
    to_make text[];
BEGIN
    PERFORM 1 FROM period WHERE number = expected AND closed_at IS NULL FOR UPDATE NOWAIT;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT count(*) FROM (%s LIMIT %s) AS unended', unended, at_most + 1) INTO waits;
    IF waits > at_most THEN
        RETURN -1;
    END IF;

    -- An autovacuum gives way to whoever waited for deadlock_timeout, and it must not be the turn as a whole: it is
    -- waited for table by table, holding no other.
    FOREACH name IN ARRAY turned LOOP
        CONTINUE WHEN NOT EXISTS (
            SELECT FROM pg_locks WHERE relation = name::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted
        );
        BEGIN
            PERFORM set_config('lock_timeout', '1500ms', true);
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name);
            RAISE EXCEPTION USING ERRCODE = 'PB001';
        EXCEPTION WHEN SQLSTATE 'PB001' THEN
            NULL;  -- the lock went with the subtransaction
        END;
    END LOOP;

    -- A transaction that holds one of the tables and waits for another of them has to be let through: the turn gives
    -- up all of its locks soon, and waits a little longer each time.
    FOR trial IN 1 .. 15 LOOP
        BEGIN
            until := clock_timestamp() + least(patience, trial * interval '25 ms');
            FOREACH name IN ARRAY 'lane'::text || turned LOOP
                PERFORM set_config(
                    'lock_timeout',
                    greatest(1, ceil(extract(epoch FROM until - clock_timestamp()) * 1000)::integer)::text || 'ms',
                    true
                );
                EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name);
            END LOOP;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF trial = 15 THEN
                RAISE;
            END IF;
        END;
        PERFORM pg_sleep(0.05);
    END LOOP;
    PERFORM set_config('lock_timeout', '1500ms', true);

    -- Everything a received message led to stays together, in one month.
    SET LOCAL enable_seqscan = off;
    EXECUTE format($q$
        WITH RECURSIVE up(message) AS (
            SELECT * FROM (%s) AS unended
            UNION SELECT d.message FROM up JOIN message m ON m.id = up.message JOIN delivery d ON d.id = m.parent
        ), down(message) AS (
            SELECT * FROM up
            UNION SELECT m.id
            FROM down JOIN delivery d ON d.message = down.message JOIN message m ON m.parent = d.id
        )
        SELECT coalesce(array_agg(message), '{}') FROM down
    $q$, unended) INTO moving;
    SELECT coalesce(array_agg(id), '{}') FROM delivery WHERE message = ANY (moving) INTO deliveries;

    -- What the tables have besides their columns, to be made again for the new ones: in this order.
    SELECT array_agg(definition ORDER BY place, definition) FROM (
        SELECT 1 AS place, format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname,
                                  pg_get_constraintdef(oid)) AS definition
        FROM pg_constraint WHERE conrelid = ANY (turned::regclass[]) AND contype IN ('p', 'u')
        UNION ALL
        SELECT 2, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = ANY (turned::regclass[])
            AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u'))
        UNION ALL
        SELECT 3, format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
        FROM pg_constraint WHERE conrelid = ANY (turned::regclass[]) AND contype = 'f'
        UNION ALL
        SELECT 4, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = ANY (turned::regclass[]) AND NOT tgisinternal
        UNION ALL
        SELECT 5, format('ALTER TABLE %s SET (%s)', oid::regclass, array_to_string(reloptions, ', '))
        FROM pg_class WHERE oid = ANY (turned::regclass[]) AND reloptions IS NOT NULL
        UNION ALL
        SELECT 6, format('GRANT %s ON %s TO %s%s', right_.privilege_type, c.oid::regclass,
                         coalesce(quote_ident(grantee.rolname), 'PUBLIC'),
                         CASE WHEN right_.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class c, aclexplode(c.relacl) right_ LEFT JOIN pg_roles grantee ON grantee.oid = right_.grantee
        WHERE c.oid = ANY (turned::regclass[]) AND right_.grantee <> c.relowner
    ) AS definitions INTO to_make;
    -- Nothing but the other tables of their month refers to them, and they are dropped with these.
    SELECT array_agg(definition ORDER BY place) FROM (
        SELECT 1 AS place, format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS definition
        FROM pg_constraint WHERE conrelid = ANY (turned::regclass[]) AND contype = 'f'
        UNION ALL
        SELECT 2, format('ALTER INDEX %s RENAME TO %I', indexrelid::regclass, relname || '_' || expected)
        FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = ANY (turned::regclass[])
    ) AS definitions INTO to_rename;

    FOREACH step IN ARRAY to_rename LOOP
        EXECUTE step;
    END LOOP;
    FOREACH name IN ARRAY turned LOOP
        EXECUTE format('ALTER TABLE %I RENAME TO %I', name, name || '_' || expected);
        EXECUTE format('ALTER TABLE %I SET SCHEMA history', name || '_' || expected);
        EXECUTE format(
            'CREATE TABLE %I (LIKE history.%I INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION)',
            name, name || '_' || expected
        );
        EXECUTE format('ALTER TABLE %I ALTER period SET DEFAULT %s', name, following);
        kin := CASE name
            WHEN 'message' THEN 'id = ANY ($1)'
            WHEN 'delivery' THEN 'id = ANY ($2)'
            WHEN 'search_value' THEN 'message = ANY ($1)'
            WHEN 'output' THEN 'delivery = ANY ($2)'
            WHEN 'attempt' THEN 'delivery = ANY ($2)'
        END;
        CONTINUE WHEN kin IS NULL;  -- journal and receipts belong to the time they were written
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = name::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'period' INTO columns;
        EXECUTE format(
            'INSERT INTO %I (%s) SELECT %s FROM history.%I WHERE %s',
            name, columns, columns, name || '_' || expected, kin
        ) USING moving, deliveries;
        EXECUTE format('DELETE FROM history.%I WHERE %s', name || '_' || expected, kin) USING moving, deliveries;
    END LOOP;
    FOREACH step IN ARRAY to_make LOOP
        EXECUTE step;
    END LOOP;
    FOREACH name IN ARRAY turned LOOP
        EXECUTE format('ALTER TABLE history.%I ATTACH PARTITION %I FOR VALUES IN (%s)', name, name, following);
    END LOOP;
    UPDATE period SET closed_at = clock_timestamp(), moved_along = cardinality(moving) WHERE number = expected;
    INSERT INTO period (number, began_at) VALUES (following, clock_timestamp());
    RETURN cardinality(moving);
END $turn$
"""
