-- Brings the tables of onlyonce from version 2 to revision 3, which knows the order of a holder's
-- calls. Programs of version 2 use them as before, beside those of revision 3.
-- `PostgresOptions::migrate` runs this file with the names that were chosen; run it by hand (psql -1
-- -f upgrade_3.sql) where migrations are done by others. Rewrites no row.

ALTER TABLE onlyonce ADD COLUMN step bigint NOT NULL DEFAULT 0;

ALTER TABLE onlyonce SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

ALTER TABLE onlyonce_schema ADD COLUMN revision integer;
ALTER TABLE onlyonce_schema ADD COLUMN secret uuid NOT NULL DEFAULT gen_random_uuid();

UPDATE onlyonce_schema SET revision = 3;
