-- Brings the tables of onlyonce from revision 3 to revision 4, which keeps what operators decide.
-- Programs of revision 3 use them as before, beside those of revision 4.
-- `PostgresOptions::migrate` runs this file with the names that were chosen; run it by hand (psql -1
-- -f upgrade_4.sql) where migrations are done by others. Touches no row of the keys.

CREATE TABLE onlyonce_decisions (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms bigint NOT NULL,
    actor text NOT NULL,
    note text NOT NULL,
    verdict smallint NOT NULL,
    scope bytea NOT NULL,
    key bytea NOT NULL,
    was_state smallint NOT NULL,
    was_reason smallint,
    fingerprint bytea NOT NULL,
    token bigint NOT NULL,
    attempts integer NOT NULL,
    checkpoint bytea,
    was_head bytea,
    was_answer bytea,
    head bytea,
    answer bytea
);

UPDATE onlyonce_schema SET revision = 4;
