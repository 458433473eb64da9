-- Brings the tables of onlyonce from schema version 1 to version 2, which knows sessions of
-- holders. `PostgresOptions::migrate` runs this file with the names that were chosen; run it by
-- hand (psql -1 -f upgrade_2.sql) where migrations are done by others. Rewrites no row.

ALTER TABLE onlyonce ADD COLUMN session bigint;

CREATE TABLE onlyonce_sessions (
    id bigint PRIMARY KEY,
    era text NOT NULL,
    ended_at bigint
);

UPDATE onlyonce_schema SET version = 2;
