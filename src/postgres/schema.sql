-- The tables of onlyonce, revision 4 (upgrade_2.sql to upgrade_4.sql bring earlier ones to it).
-- `PostgresOptions::migrate` runs this file with the names that were chosen; run it by hand
-- (psql -1 -f schema.sql) where migrations are done by others.
--
-- Times are milliseconds since 1970 by the server's clock, windows are milliseconds.

CREATE TABLE onlyonce (
    scope bytea NOT NULL,
    key bytea NOT NULL,
    -- The call that was granted the last claim: what makes its statements repeatable.
    owner bytea NOT NULL,
    -- Number of the scheme (one byte), then sixteen bytes.
    fingerprint bytea NOT NULL,
    token bigint NOT NULL,
    -- The terms of the claim.
    lease_ms bigint NOT NULL,
    replay_ms bigint NOT NULL,
    remember_ms bigint NOT NULL,
    -- How long the key is kept when it is interrupted.
    keep_ms bigint NOT NULL,
    started_at bigint NOT NULL,
    lease_until bigint NOT NULL,
    -- When it was interrupted or completed.
    ended_at bigint NOT NULL DEFAULT 0,
    -- The response is replayed until then. Of a key in flight that was taken over: when it had
    -- been interrupted.
    replay_until bigint NOT NULL DEFAULT 0,
    -- From then on the key is absent, whether or not the row is still there. In no index, so that
    -- no call but the first claim has to touch one.
    expires_at bigint NOT NULL,
    reserve integer NOT NULL,
    attempt integer NOT NULL DEFAULT 1,
    -- The hour since 1970 at which the sweeper looks at the row: a hint, written with the claim.
    sweep_hour integer NOT NULL,
    -- The slot of the key in a fixed map of slots, for moving parts of the table elsewhere.
    slot smallint NOT NULL,
    -- 0 released, 1 held, 2 interrupted, 3 completed.
    state smallint NOT NULL DEFAULT 1,
    -- Why it is interrupted; why the attempt before this one was.
    reason smallint,
    after smallint,
    -- A handle of the claim still exists, as far as is known.
    holder boolean NOT NULL DEFAULT true,
    -- The session that stands for the holder's store, if there is one: an advisory lock's number.
    session bigint,
    -- Taken over, or checkpointed, at least once: a release no longer frees the key.
    history boolean NOT NULL DEFAULT false,
    checkpoint bytea,
    -- The number of the holder's last call: an earlier one that arrives late changes nothing.
    step bigint NOT NULL DEFAULT 0,
    -- Of a key in flight that was taken over: the answer that its failed holder had left.
    head bytea,
    -- Of a completed key the response (NULL: done, not retained), of a failed one its answer.
    response bytea,
    PRIMARY KEY (scope, key)
) WITH (
    -- Room beside each row for its next version.
    fillfactor = 50,
    -- Rows live for a day or so: dead ones are removed when they are a fiftieth, not a fifth.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

CREATE INDEX onlyonce_due ON onlyonce (sweep_hour);

-- In which run of which server each session was made last. Its lock is held as long as it lasts.
CREATE TABLE onlyonce_sessions (
    id bigint PRIMARY KEY,
    era text NOT NULL,
    -- When the sweeper found that it had ended.
    ended_at bigint
);

-- What operators have decided, and what was there before. Written with the decision, in one statement.
CREATE TABLE onlyonce_decisions (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms bigint NOT NULL,
    actor text NOT NULL,
    note text NOT NULL,
    -- 1 complete, 2 free, 3 forget, 4 replace.
    verdict smallint NOT NULL,
    scope bytea NOT NULL,
    key bytea NOT NULL,
    -- 1 in flight, 2 interrupted, 3 completed.
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

-- The version that a program must know to use the tables, and the revision that they have: programs
-- of this version that know only an earlier revision can use them, too. Events name a key by its hash
-- under the secret.
CREATE TABLE onlyonce_schema (
    version integer NOT NULL,
    revision integer,
    secret uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO onlyonce_schema VALUES (2, 4);
