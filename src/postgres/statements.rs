//! The statements, each one transaction of its own, each repeatable by the same owner.
//!
//! Time is read by the server, after it has the row's lock: in `SET`, never in the row proposed
//! for insertion, which is made before. An answer that grants nothing writes nothing, not even a
//! row lock: a key that may have no row is inserted with `DO NOTHING`, one that may have a row is
//! read first, and updated only when it is absent.

use super::{options::PostgresOptions, schema::Names, session};

/// What `row` decodes, in this order.
const COLUMNS: &str = "state, token, owner, fingerprint, attempt, reason, after, holder, lease_ms, \
    replay_ms, remember_ms, reserve, started_at, lease_until, expires_at, ended_at, replay_until, \
    checkpoint, head, response, step";

/// All columns.
const ALL: &str = "scope, key, owner, fingerprint, token, lease_ms, replay_ms, remember_ms, \
    keep_ms, started_at, lease_until, ended_at, replay_until, expires_at, reserve, attempt, \
    sweep_hour, slot, state, reason, after, holder, session, history, checkpoint, step, head, response";

/// Parameters that are arrays of all columns.
fn arrays() -> String {
    let array = |(n, column): (usize, &str)| {
        let kind = match column {
            "scope" | "key" | "owner" | "fingerprint" | "checkpoint" | "head" | "response" => {
                "bytea"
            }
            "reserve" | "attempt" | "sweep_hour" => "integer",
            "slot" | "state" | "reason" | "after" => "smallint",
            "holder" | "history" => "boolean",
            _ => "bigint",
        };
        format!("${}::{kind}[]", n + 1)
    };
    ALL.split(", ").enumerate().map(array).collect::<Vec<_>>().join(", ")
}

/// The statements for one table.
#[derive(Debug)]
#[cfg_attr(not(feature = "admin"), allow(dead_code))]
pub(super) struct Statements {
    /// Scope, key, owner, fingerprint, lease, replay, remember, keep (ms), reserve, slot: a key
    /// that has no row. Cheapest, and what most keys are; writes nothing if there is one.
    pub claim: String,
    /// The same for any key: grants it if it is absent, or returns its state.
    pub begin: String,
    /// Scope, key, owner, fingerprint, token seen, attempts allowed.
    pub take_over: String,
    /// Scope, key.
    pub look: String,
    /// Scope, key, token, owner, head, response, replay, remember (ms).
    pub complete: String,
    /// Scope, key, token, owner, answer, keep (ms), step.
    pub fail: String,
    /// Scope, key, token, owner, step.
    pub release: String,
    /// Scope, key, token, owner, step: what was taken over is as it was; what was not is released.
    pub undo: String,
    /// Scope, key, token, owner, lease (ms), step: no attempt before this one had an effect.
    pub first: String,
    /// Scope, key, token, owner, checkpoint (NULL: renew), lease (ms), step.
    pub renew: String,
    /// Scope, key, token, owner, reason, step.
    pub abandon: String,
    /// Arrays of scopes, keys, tokens, owners, leases (ms).
    pub keep_alive: String,
    /// The maximum number of rows, the first hour.
    pub sweep: String,
    /// Scope, key, token before, owner after, state and step before, actor, note, verdict. Like the
    /// next two, it is done and noted, or neither.
    pub free: String,
    /// The first eight, head, response, replay, remember (ms).
    pub decide: String,
    /// The first eight, head, response: another answer for a completed key.
    pub replace: String,
    /// Scope, key, owner, fingerprint, head, response, replay, remember (ms), slot.
    pub import: String,
    /// Scope and key after which to continue, the maximum number of rows.
    pub list: String,
    /// Attempts allowed: the keys by state, and the table's size.
    pub count: String,
    /// Scope, prefix, states (1 held, 2 interrupted), age (ms), reason, the maximum number of rows,
    /// the number to pass over: undecided keys, oldest first, each with the number of all.
    pub undecided: String,
    /// First scope and key, prefix, age (ms), the maximum number of rows: completed keys in their
    /// order.
    pub completed: String,
    /// The same of the first scope alone.
    pub completed_of: String,
    /// Scope, key, prefix, kept for (ms), the maximum number: the decisions, newest first.
    pub decisions: String,
    /// Scope, the maximum number of rows, whether keys in flight, too.
    pub erase: String,
    pub erase_decisions: String,
    /// Scope: the keys in flight.
    pub held_in: String,
    /// Kept for (ms).
    pub sweep_decisions: String,
    /// The slot in which to continue and the last one, scope and key after which to continue, the
    /// maximum number of rows, and of bytes: all columns.
    pub slots: String,
    /// An array of each column, in the order of the table's.
    pub put: String,
    /// The slot in which to continue and the last one, scope and key after which to continue, the
    /// maximum number of rows.
    pub delete_slots: String,
    /// The listeners' lock, the server process to leave out.
    pub listeners: String,
    /// Channel, payload.
    pub notify: String,
    /// Session: it is held, here and now.
    pub register: String,
    /// Sessions that have ended are noted, and forgotten much later.
    pub sweep_sessions: String,
}

impl Statements {
    /// `own` is the store's own session.
    pub fn new(names: &Names, options: &PostgresOptions, own: Option<i64>) -> Self {
        let (table, sessions) = (&names.table, &names.sessions);
        let us = format!("({})", options.clock_us);
        let now = format!("({us} / 1000)");
        let barrier = match options.strict_read {
            // A commit that waits for the quorum.
            true => "pg_logical_emit_message(true, 'onlyonce', '')",
            false => "NULL",
        };
        let (session, life) = (session::recorded(own), session::life(sessions, &now));
        let held = format!("UPDATE {table} SET");
        let ours =
            "WHERE scope = $1 AND key = $2 AND token = $3 AND owner = $4 AND state IN (1, 2)";
        let fresh = format!(
            "token = greatest(t.token + 1, {us}), lease_until = {now} + excluded.lease_ms, \
             started_at = {now}, expires_at = {now} + excluded.lease_ms + excluded.keep_ms, \
             sweep_hour = ({now} + excluded.remember_ms) / 3600000 + 2"
        );
        let kept: String = ["owner", "fingerprint", "lease_ms", "replay_ms", "remember_ms"]
            .iter()
            .chain(&["keep_ms", "reserve", "session"])
            .map(|column| format!("{column} = excluded.{column}, "))
            .collect();
        let proposed = format!("excluded.{}", ALL.replace(", ", ", excluded."));
        let first = format!(
            "INSERT INTO {table} (scope, key, owner, fingerprint, lease_ms, replay_ms, \
                 remember_ms, keep_ms, reserve, slot, token, started_at, lease_until, expires_at, \
                 sweep_hour, session)"
        );
        let proposed_first = format!(
            "$1::bytea, $2::bytea, $3::bytea, $4::bytea, $5::bigint, $6::bigint, $7::bigint, \
             $8::bigint, $9::integer, $10::smallint, {us}, {now}, {now} + $5, {now} + $5 + $8, \
             ({now} + $7) / 3600000 + 2, {session}"
        );
        let first_as_t = first.replace(" (scope, key, owner", " AS t (scope, key, owner");
        let decisions = &names.decisions;
        // What is noted is what the change has replaced. A holder's call in between (its token stays)
        // has changed the state or the step, so nothing is done then.
        let decided = |set: String, [verdict, head, answer]: [&str; 3]| {
            format!(
                "WITH was AS MATERIALIZED (\
                     SELECT * FROM {table} WHERE scope = $1 AND key = $2 AND token = $3 \
                     AND state = $5::smallint AND step = $6::bigint FOR UPDATE\
                 ), done AS (\
                     UPDATE {table} AS t SET token = greatest(t.token + 1, {us}), {set} FROM was \
                     WHERE t.scope = was.scope AND t.key = was.key AND t.token = was.token \
                     RETURNING 1\
                 ) \
                 INSERT INTO {decisions} (at_ms, actor, note, verdict, scope, key, was_state, \
                     was_reason, fingerprint, token, attempts, checkpoint, was_head, was_answer, \
                     head, answer) \
                 SELECT {now}, $7, $8, {verdict}, scope, key, \
                     CASE WHEN state = 1 AND lease_until <= {now} THEN 2 ELSE state END, \
                     CASE WHEN state = 1 THEN 4 WHEN state = 2 THEN reason END, fingerprint, token, \
                     attempt, checkpoint, CASE WHEN state = 3 THEN was.head END, was.response, \
                     {head}, {answer} FROM was, done"
            )
        };
        // How a row stands, and since when.
        let standing = format!(
            "CASE WHEN state = 1 AND lease_until > {now} THEN 1 ELSE 2 END AS stands, \
             CASE WHEN state = 2 THEN ended_at WHEN lease_until > {now} THEN started_at \
                 ELSE lease_until END AS since"
        );
        let completed = |of: &str| {
            format!(
                "SELECT {COLUMNS}, {now}, false, 0, NULL::text, scope, key FROM {table} AS t \
                 WHERE (scope, key) >= ($1, $2) {of} AND state = 3 AND expires_at > {now} \
                 AND substring(key FOR length($3::bytea)) = $3 AND ended_at <= {now} - $4::bigint \
                 ORDER BY scope, key LIMIT $5"
            )
        };
        Statements {
            count: format!(
                "SELECT {now}, count(*) FILTER (WHERE stands = 1 AND state <> 3), \
                     count(*) FILTER (WHERE stands = 2 AND state <> 3), \
                     count(*) FILTER (WHERE state = 3), \
                     min(since) FILTER (WHERE stands = 1 AND state <> 3), \
                     min(since) FILTER (WHERE stands = 2 AND state <> 3), \
                     count(*) FILTER (WHERE stands = 2 AND state <> 3 AND attempt >= $1), \
                     pg_total_relation_size('{table}'::regclass) \
                 FROM (SELECT state, attempt, {standing} FROM {table} \
                     WHERE state <> 0 AND expires_at > {now}) AS counted",
                table = table.replace('\'', "''"),
            ),
            undecided: format!(
                "SELECT {COLUMNS}, {now}, false, life, NULL::text, scope, key, \
                     count(*) OVER () AS listed FROM (\
                     SELECT *, {life} AS life, {standing} FROM {table} AS t WHERE state IN (1, 2) \
                     AND ($1::bytea IS NULL OR scope = $1) \
                     AND substring(key FOR length($2::bytea)) = $2\
                 ) AS u WHERE (expires_at > {now} OR life = 1) AND stands = ANY ($3::integer[]) \
                     AND since <= {now} - $4::bigint \
                     AND ($5::smallint IS NULL OR (stands = 2 \
                         AND CASE WHEN state = 1 THEN 4 ELSE reason END = $5)) \
                 ORDER BY since, token LIMIT $6 OFFSET $7"
            ),
            completed: completed(""),
            completed_of: completed("AND scope = $1"),
            decisions: format!(
                "SELECT number, at_ms, actor, note, verdict, scope, key, was_state, was_reason, \
                     fingerprint, token, attempts, checkpoint, was_head, was_answer, head, answer \
                 FROM {decisions} WHERE ($1::bytea IS NULL OR scope = $1) \
                     AND ($2::bytea IS NULL OR key = $2) \
                     AND substring(key FOR length($3::bytea)) = $3 AND at_ms > {now} - $4::bigint \
                     AND ($6::bigint IS NULL OR number < $6) \
                 ORDER BY number DESC LIMIT $5"
            ),
            erase: format!(
                "DELETE FROM {table} WHERE ctid = ANY (ARRAY (SELECT ctid FROM {table} \
                 WHERE scope = $1 AND ($3::boolean OR state <> 1 OR lease_until <= {now}) \
                 LIMIT $2 FOR UPDATE))"
            ),
            erase_decisions: format!(
                "DELETE FROM {decisions} WHERE number = ANY (ARRAY (SELECT number \
                 FROM {decisions} WHERE scope = $1 AND $3::boolean IS NOT NULL LIMIT $2))"
            ),
            held_in: format!("SELECT count(*) FROM {table} WHERE scope = $1"),
            sweep_decisions: format!("DELETE FROM {decisions} WHERE at_ms <= {now} - $1::bigint"),
            claim: format!(
                "{first} VALUES ({proposed_first}) ON CONFLICT (scope, key) DO NOTHING \
                 RETURNING token"
            ),
            begin: format!(
                "WITH seen AS MATERIALIZED (\
                     SELECT *, {life} AS life FROM {table} AS t WHERE scope = $1 AND key = $2\
                 ), fresh AS (\
                     {first_as_t} SELECT {proposed_first} \
                     WHERE NOT EXISTS (SELECT FROM seen WHERE expires_at > {now} OR life = 1) \
                     ON CONFLICT (scope, key) DO UPDATE SET {kept} {fresh}, \
                         ended_at = 0, replay_until = 0, attempt = 1, state = 1, reason = NULL, \
                         after = NULL, holder = true, history = false, step = 0, checkpoint = NULL, \
                         head = NULL, response = NULL \
                     WHERE t.expires_at <= {now} AND t.owner <> excluded.owner AND {life} <> 1 \
                     RETURNING *\
                 ) \
                 SELECT {COLUMNS}, {now}, true, \
                     coalesce((SELECT 10 * state FROM seen WHERE expires_at > 0), 0), NULL \
                     FROM fresh UNION ALL \
                 SELECT {COLUMNS}, {now}, false, life, {barrier} FROM seen \
                     WHERE NOT EXISTS (SELECT FROM fresh)"
            ),
            take_over: format!(
                "UPDATE {table} AS t SET token = greatest(token + 1, {us}), owner = $3, \
                     attempt = attempt + 1, history = true, holder = true, step = 0, \
                     session = {session}, started_at = {now}, \
                     lease_until = {now} + lease_ms, expires_at = {now} + lease_ms + keep_ms, \
                     after = CASE state WHEN 2 THEN reason ELSE 4 END, \
                     replay_until = CASE state WHEN 2 THEN ended_at ELSE lease_until END, \
                     state = 1, reason = NULL, head = response, response = NULL \
                 WHERE scope = $1 AND key = $2 AND token = $5 AND fingerprint = $4 \
                     AND (expires_at > {now} OR {life} = 1) AND attempt < $6 \
                     AND (state = 2 OR (state = 1 AND lease_until <= {now})) \
                 RETURNING {COLUMNS}, {now}, true, 0"
            ),
            look: format!(
                "SELECT {COLUMNS}, {now}, false, {life}, {barrier} FROM {table} AS t \
                 WHERE scope = $1 AND key = $2"
            ),
            complete: format!(
                "{held} state = 3, head = $5, response = $6, ended_at = {now}, \
                     replay_until = {now} + $7::bigint, expires_at = {now} + $8::bigint, \
                     checkpoint = NULL, reason = NULL, holder = false {ours}"
            ),
            fail: format!(
                "{held} state = 2, reason = 6, response = $5, after = NULL, head = NULL, \
                     ended_at = {now}, \
                     expires_at = {now} + $6::bigint, step = $7 {ours} AND response IS NULL \
                     AND step <= $7::bigint"
            ),
            release: format!(
                "{held} state = CASE WHEN history THEN 2 ELSE 0 END, reason = 5, holder = false, \
                     attempt = attempt - CASE WHEN after IS NULL THEN 0 ELSE 1 END, \
                     head = NULL, after = NULL, \
                     ended_at = {now}, expires_at = CASE WHEN history THEN {now} + keep_ms ELSE 0 \
                     END, step = $5 {ours} AND step <= $5::bigint"
            ),
            undo: format!(
                "{held} state = CASE WHEN after IS NOT NULL OR history THEN 2 ELSE 0 END, \
                     reason = coalesce(after, 5), holder = false, \
                     attempt = attempt - CASE WHEN after IS NULL THEN 0 ELSE 1 END, \
                     response = CASE WHEN after IS NULL THEN response ELSE head END, \
                     head = NULL, after = NULL, \
                     ended_at = CASE WHEN after IS NULL THEN {now} ELSE replay_until END, \
                     expires_at = CASE WHEN after IS NOT NULL THEN replay_until + keep_ms \
                         WHEN history THEN {now} + keep_ms ELSE 0 END, step = $5 \
                 {ours} AND (after IS NOT NULL OR holder) AND step <= $5::bigint"
            ),
            first: format!(
                "{held} state = 1, reason = NULL, response = NULL, head = NULL, after = NULL, \
                     checkpoint = NULL, history = false, attempt = 1, session = {session}, \
                     lease_until = CASE WHEN state = 1 THEN greatest(lease_until, {now} + $5::bigint) \
                         ELSE {now} + $5::bigint END, \
                     expires_at = CASE WHEN state = 1 THEN greatest(lease_until, {now} + $5::bigint) \
                         ELSE {now} + $5::bigint END + keep_ms, step = $6 \
                     {ours} AND step <= $6::bigint"
            ),
            renew: format!(
                "{held} state = 1, reason = NULL, response = NULL, session = {session}, \
                     checkpoint = coalesce($5::bytea, checkpoint), \
                     history = history OR $5::bytea IS NOT NULL, \
                     lease_until = CASE WHEN state = 1 THEN greatest(lease_until, {now} + $6::bigint) \
                         ELSE {now} + $6::bigint END, \
                     expires_at = CASE WHEN state = 1 THEN greatest(lease_until, {now} + $6::bigint) \
                         ELSE {now} + $6::bigint END + keep_ms, step = $7 \
                     {ours} AND step <= $7::bigint"
            ),
            // A lease that had passed is what interrupted the key, not the drop after it.
            abandon: format!(
                "{held} holder = false, state = 2, after = NULL, head = NULL, \
                     reason = CASE WHEN state = 2 THEN reason WHEN lease_until <= {now} THEN 4 \
                         ELSE $5::smallint END, \
                     ended_at = CASE WHEN state = 2 THEN ended_at \
                         ELSE least(lease_until, {now}) END, \
                     expires_at = CASE WHEN state = 2 THEN ended_at \
                         ELSE least(lease_until, {now}) END + keep_ms, step = $6 \
                     {ours} AND holder AND step <= $6::bigint"
            ),
            keep_alive: format!(
                "UPDATE {table} AS t SET lease_until = greatest(t.lease_until, {now} + k.lease), \
                     session = {session}, expires_at = greatest(t.lease_until, {now} + k.lease) + t.keep_ms \
                 FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[], $5::bigint[]) \
                     AS k (scope, key, token, owner, lease) \
                 WHERE t.scope = k.scope AND t.key = k.key AND t.token = k.token \
                     AND t.owner = k.owner AND t.state = 1"
            ),
            sweep: format!(
                "WITH due AS MATERIALIZED (\
                     SELECT ctid AS at, sweep_hour FROM {table} \
                     WHERE sweep_hour >= $2 AND sweep_hour <= {now} / 3600000 \
                     ORDER BY sweep_hour LIMIT $1 FOR UPDATE SKIP LOCKED\
                 ), gone AS (\
                     DELETE FROM {table} AS t WHERE ctid = ANY (ARRAY (SELECT at FROM due)) \
                     AND expires_at + {MARGIN_MS} <= {now} AND {life} <> 1 RETURNING state\
                 ), later AS (\
                     UPDATE {table} AS t SET sweep_hour = \
                         greatest(expires_at + {MARGIN_MS}, {now}) / 3600000 + 1 \
                     WHERE ctid = ANY (ARRAY (SELECT at FROM due)) \
                     AND (expires_at + {MARGIN_MS} > {now} OR {life} = 1) RETURNING 1\
                 ) \
                 SELECT (SELECT count(*) FROM due), (SELECT count(*) FROM gone), \
                     (SELECT count(*) FROM later), \
                     (SELECT count(*) FROM gone WHERE state IN (1, 2)), \
                     (SELECT max(sweep_hour) FROM due)"
            ),
            free: decided(
                "owner = $4, state = 0, holder = false, expires_at = 0, checkpoint = NULL, \
                 head = NULL, response = NULL"
                    .into(),
                ["$9::smallint", "NULL", "NULL"],
            ),
            decide: decided(
                format!(
                    "owner = $4, state = 3, head = $9, response = $10, ended_at = {now}, \
                     replay_until = {now} + $11::bigint, expires_at = {now} + $12::bigint, \
                     checkpoint = NULL, reason = NULL, holder = false"
                ),
                ["1", "$9", "$10"],
            ),
            replace: decided("owner = $4, head = $9, response = $10".into(), ["4", "$9", "$10"]),
            import: format!(
                "INSERT INTO {table} AS t (scope, key, owner, fingerprint, lease_ms, replay_ms, \
                     remember_ms, keep_ms, reserve, slot, token, started_at, lease_until, \
                     expires_at, sweep_hour, ended_at, replay_until, attempt, state, holder, head, \
                     response) \
                 VALUES ($1, $2, $3, $4, 0, $7, $8, 0, 0, $9, {us}, {now}, {now}, \
                     {now} + $8::bigint, ({now} + $8::bigint) / 3600000 + 2, {now}, \
                     {now} + $7::bigint, 0, 3, false, $5, $6) \
                 ON CONFLICT (scope, key) DO UPDATE SET {kept} {anew_import}, \
                     attempt = 0, state = 3, reason = NULL, after = NULL, holder = false, \
                     history = false, checkpoint = NULL, head = excluded.head, \
                     response = excluded.response \
                 WHERE t.expires_at <= {now} AND {life} <> 1",
                anew_import = format_args!(
                    "token = greatest(t.token + 1, {us}), lease_until = {now}, started_at = {now}, \
                     ended_at = {now}, replay_until = {now} + $7::bigint, \
                     expires_at = {now} + $8::bigint, \
                     sweep_hour = ({now} + $8::bigint) / 3600000 + 2"
                ),
            ),
            list: format!(
                "SELECT {COLUMNS}, {now}, false, life, NULL::text, scope, key FROM (\
                     SELECT *, {life} AS life FROM {table} AS t WHERE (scope, key) > ($1, $2) \
                     ORDER BY scope, key\
                 ) AS listed WHERE expires_at > {now} OR life = 1 \
                 ORDER BY scope, key LIMIT $3"
            ),
            // As many rows as their bytes allow, at least one; lengths are known without the bytes.
            slots: format!(
                "SELECT {ALL} FROM (SELECT {ALL}, \
                     sum(coalesce(octet_length(response), 0) + coalesce(octet_length(head), 0) \
                         + coalesce(octet_length(checkpoint), 0)) OVER steps AS bytes, \
                     row_number() OVER steps AS nth \
                     FROM (SELECT {ALL} FROM {table} WHERE slot <= $2 \
                         AND (slot, scope, key) > ($1, $3, $4) \
                         ORDER BY slot, scope, key LIMIT $5) AS next \
                     WINDOW steps AS (ORDER BY slot, scope, key)\
                 ) AS part WHERE bytes <= $6 OR nth = 1 ORDER BY slot, scope, key"
            ),
            put: format!(
                "INSERT INTO {table} AS t ({ALL}) SELECT {ALL} \
                 FROM unnest({columns}) AS moved ({ALL}) \
                 ON CONFLICT (scope, key) DO UPDATE SET ({ALL}) = ROW ({proposed}) \
                 WHERE t.token < excluded.token",
                columns = arrays(),
            ),
            delete_slots: format!(
                "WITH part AS MATERIALIZED (\
                     SELECT ctid AS at, slot, scope, key FROM {table} WHERE slot <= $2 \
                     AND (slot, scope, key) > ($1, $3, $4) ORDER BY slot, scope, key LIMIT $5\
                 ), gone AS (\
                     DELETE FROM {table} WHERE ctid = ANY (ARRAY (SELECT at FROM part)) RETURNING 1\
                 ) \
                 SELECT slot, scope, key, (SELECT count(*) FROM gone) FROM part \
                 ORDER BY slot DESC, scope DESC, key DESC LIMIT 1"
            ),
            listeners: "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' \
                        AND database = (SELECT oid FROM pg_database \
                            WHERE datname = current_database()) \
                        AND classid = ($1::bigint >> 32 & 4294967295)::oid \
                        AND objid = ($1::bigint & 4294967295)::oid AND objsubid = 1 \
                        AND granted AND pid <> $2)"
                .into(),
            notify: "SELECT pg_notify($1, $2)".into(),
            register: session::register(sessions),
            sweep_sessions: session::sweep(sessions, &now),
        }
    }
}

/// The shortest time after its expiry at which a row is removed. Tokens keep rising after that, as
/// long as no server's clock is further behind the clock that gave out the last one.
pub(super) const MARGIN_MS: i64 = 10 * 60 * 1000;
