//! The statements: one text for all dialects, each about one key (but for sweeping in batches).
//!
//! Each can be repeated by the same owner. A statement that is to change a row that was read before
//! names the row's token: another call may have been faster, and then it changes nothing. Numbers
//! are `bigint` wherever a parameter or a column could be something else.

use super::{connection::Kind, dialect::Dialect, row::COLUMNS};

/// The statements for one table.
#[derive(Debug)]
pub(crate) struct Statements {
    /// Scope, key, owner, fingerprint, lease, replay, remember, keep (ms), reserve, slot: a key
    /// that has no row.
    pub claim: String,
    /// The same, and token and state of a row that was found absent.
    pub again: String,
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
    /// Scope, key, token before, owner after.
    pub free: String,
    /// Scope, key, token before, owner after, head, response, replay, remember (ms).
    pub decide: String,
    /// Scope, key, token before, owner after, head, response.
    pub replace: String,
    /// Scope, key, owner, fingerprint, head, response, replay, remember (ms), slot: a key that has
    /// no row.
    pub import: String,
    /// Scope, key, token before, owner after, head, response, replay, remember (ms), fingerprint: a
    /// key that is absent, but has a row.
    pub import_over: String,
    /// The maximum number of rows: keys that are due to be swept.
    pub due: String,
    /// Scope, key: removed, if it has expired.
    pub remove: String,
    /// Scope, key: looked at again when it will have expired.
    pub postpone: String,
    /// The maximum number of rows: those that have expired.
    pub sweep: String,
    /// The maximum number of rows: those that have not.
    pub sweep_later: String,
}

/// The types of the columns of a row as [`Row::of`](super::row::Row::of) takes it, and one more.
pub(crate) fn row_kinds() -> Vec<Kind> {
    let known = COLUMNS.iter().map(|(_, kind)| *kind);
    known.chain([Kind::Int, Kind::Int, Kind::Int, Kind::Text]).collect()
}

/// The shortest time after its expiry at which a row is removed: tokens rise through it.
const MARGIN_MS: i64 = 10 * 60 * 1000;

impl Statements {
    pub fn new(table: &str, dialect: &Dialect) -> Self {
        let (us, now) = (&dialect.us, &dialect.now());
        let Dialect { raise, restore, life, skip_locked, .. } = dialect;
        let typed: Vec<String> = COLUMNS
            .iter()
            .map(|(column, kind)| match kind {
                Kind::Int => format!("CAST({column} AS bigint)"),
                _ => (*column).to_owned(),
            })
            .collect();
        let columns = typed.join(", ");
        let int = |n: u32| format!("CAST(${n} AS bigint)");
        let [keep6, lease5, lease6] = [int(6), int(5), int(6)];
        let fresh_token = dialect.greatest("token + 1", us);
        let begun = format!("{columns}, {now}, CAST(1 AS bigint), CAST(0 AS bigint), {restore}");
        let by_lease = |lease: &str| {
            let longer = dialect.greatest("lease_until", &format!("{now} + {lease}"));
            format!("CASE WHEN state = 1 THEN {longer} ELSE {now} + {lease} END")
        };
        let waits = dialect.limit.as_ref().map(|limit| format!(" FROM {limit}"));
        let waits = waits.unwrap_or_default();
        let absent = format!("expires_at <= {now} AND {life} <> 1");
        let held = format!("UPDATE {table} AS t SET");
        let ours = format!(
            "WHERE scope = $1 AND key = $2 AND token = $3 AND owner = $4 AND state IN (1, 2) \
             AND {raise}"
        );
        // A parameter that is no column yet has no type by itself; SQLite's casts make no bytes.
        let bytes = |n: u32| match dialect.sqlite {
            true => format!("${n}"),
            false => format!("CAST(${n} AS bytea)"),
        };
        let asked = [1, 2, 3, 4].map(bytes).join(", ");
        let (head, response) = (bytes(5), bytes(6));
        // Engines that distribute rows send on what has its values at hand.
        let (values, end) = match dialect.one_key {
            true => ("VALUES (", ")".to_owned()),
            false => ("SELECT ", format!("{waits} WHERE {raise}")),
        };
        let one = "RETURNING CAST(1 AS bigint)";
        let names = "scope, key, owner, fingerprint, lease_ms, replay_ms, remember_ms, keep_ms, \
             reserve, slot, token, started_at, lease_until, expires_at, sweep_hour";
        let (lease, replay, remember) = (int(5), int(6), int(7));
        let (keep, reserve, slot) = (int(8), int(9), int(10));
        let ended = dialect.least("lease_until", now);
        let text = |text: String| dialect.text(text);
        Statements {
            claim: text(format!(
                "INSERT INTO {table} ({names}) {values}{asked}, {lease}, {replay}, {remember}, \
                     {keep}, {reserve}, {slot}, {us}, {now}, {now} + {lease}, \
                     {now} + {lease} + {keep}, ({now} + {remember}) / 3600000 + 2{end} \
                 ON CONFLICT (scope, key) DO NOTHING \
                 RETURNING CAST(token AS bigint), {restore}"
            )),
            again: text(format!(
                "{held} owner = $3, fingerprint = $4, lease_ms = {lease}, replay_ms = {replay}, \
                     remember_ms = {remember}, keep_ms = {keep}, reserve = {reserve}, \
                     slot = {slot}, token = {fresh_token}, lease_until = {now} + {lease}, \
                     started_at = {now}, expires_at = {now} + {lease} + {keep}, \
                     sweep_hour = ({now} + {remember}) / 3600000 + 2, session = NULL, \
                     ended_at = 0, replay_until = 0, attempt = 1, state = 1, reason = NULL, \
                     after = NULL, holder = true, history = false, step = 0, checkpoint = NULL, \
                     head = NULL, response = NULL{waits} \
                 WHERE scope = $1 AND key = $2 AND token = $11 AND state = CAST($12 AS bigint) \
                     AND owner <> $3 AND {absent} \
                     AND {raise} RETURNING {begun}"
            )),
            take_over: text(format!(
                "{held} token = {fresh_token}, owner = $3, \
                     attempt = attempt + 1, history = true, holder = true, step = 0, \
                     session = NULL, started_at = {now}, lease_until = {now} + lease_ms, \
                     expires_at = {now} + lease_ms + keep_ms, \
                     after = CASE state WHEN 2 THEN reason ELSE 4 END, \
                     replay_until = CASE state WHEN 2 THEN ended_at ELSE lease_until END, \
                     state = 1, reason = NULL, head = response, response = NULL{waits} \
                 WHERE scope = $1 AND key = $2 AND token = $5 AND fingerprint = $4 \
                     AND (expires_at > {now} OR {life} = 1) AND attempt < {keep6} \
                     AND (state = 2 OR (state = 1 AND lease_until <= {now})) AND {raise} \
                 RETURNING {begun}"
            )),
            look: text(format!(
                "SELECT {columns}, {now}, CAST(0 AS bigint), CAST({life} AS bigint), {restore} \
                 FROM {table} AS t WHERE scope = $1 AND key = $2"
            )),
            complete: text(format!(
                "{held} state = 3, head = $5, response = $6, ended_at = {now}, \
                     replay_until = {now} + {remember}, expires_at = {now} + {keep}, \
                     checkpoint = NULL, reason = NULL, holder = false {ours} {one}"
            )),
            fail: text(format!(
                "{held} state = 2, reason = 6, response = $5, after = NULL, head = NULL, \
                     ended_at = {now}, expires_at = {now} + {keep6}, step = $7 \
                 {ours} AND response IS NULL AND step <= $7 {one}"
            )),
            release: text(format!(
                "{held} state = CASE WHEN history THEN 2 ELSE 0 END, reason = 5, holder = false, \
                     attempt = attempt - CASE WHEN after IS NULL THEN 0 ELSE 1 END, \
                     head = NULL, after = NULL, ended_at = {now}, \
                     expires_at = CASE WHEN history THEN {now} + keep_ms ELSE 0 END, step = $5 \
                 {ours} AND step <= $5 {one}"
            )),
            undo: text(format!(
                "{held} state = CASE WHEN after IS NOT NULL OR history THEN 2 ELSE 0 END, \
                     reason = coalesce(after, 5), holder = false, \
                     attempt = attempt - CASE WHEN after IS NULL THEN 0 ELSE 1 END, \
                     response = CASE WHEN after IS NULL THEN response ELSE head END, \
                     head = NULL, after = NULL, \
                     ended_at = CASE WHEN after IS NULL THEN {now} ELSE replay_until END, \
                     expires_at = CASE WHEN after IS NOT NULL THEN replay_until + keep_ms \
                         WHEN history THEN {now} + keep_ms ELSE 0 END, step = $5 \
                 {ours} AND (after IS NOT NULL OR holder) AND step <= $5 {one}"
            )),
            first: text(format!(
                "{held} state = 1, reason = NULL, response = NULL, head = NULL, after = NULL, \
                     checkpoint = NULL, history = false, attempt = 1, session = NULL, \
                     lease_until = {until}, expires_at = {until} + keep_ms, step = $6 \
                 {ours} AND step <= $6 {one}",
                until = by_lease(&lease5)
            )),
            renew: text(format!(
                "{held} state = 1, reason = NULL, response = NULL, session = NULL, \
                     checkpoint = coalesce($5, checkpoint), \
                     history = CASE WHEN $5 IS NOT NULL THEN true ELSE history END, \
                     lease_until = {until}, expires_at = {until} + keep_ms, step = $7 \
                 {ours} AND step <= $7 {one}",
                until = by_lease(&lease6)
            )),
            // A lease that had passed is what interrupted the key, not the drop after it.
            abandon: text(format!(
                "{held} holder = false, state = 2, after = NULL, head = NULL, \
                     reason = CASE WHEN state = 2 THEN reason WHEN lease_until <= {now} THEN 4 \
                         ELSE {lease5} END, \
                     ended_at = CASE WHEN state = 2 THEN ended_at ELSE {ended} END, \
                     expires_at = CASE WHEN state = 2 THEN ended_at ELSE {ended} END + keep_ms, \
                     step = $6 \
                 {ours} AND holder AND step <= $6 {one}"
            )),
            free: text(format!(
                "{held} token = {fresh_token}, owner = $4, state = 0, holder = false, \
                     expires_at = 0, checkpoint = NULL, head = NULL, response = NULL \
                 WHERE scope = $1 AND key = $2 AND token = $3 AND {raise} {one}"
            )),
            decide: text(format!(
                "{held} token = {fresh_token}, owner = $4, state = 3, head = $5, response = $6, \
                     ended_at = {now}, replay_until = {now} + {remember}, \
                     expires_at = {now} + {keep}, checkpoint = NULL, reason = NULL, \
                     holder = false \
                 WHERE scope = $1 AND key = $2 AND token = $3 AND {raise} {one}"
            )),
            replace: text(format!(
                "{held} token = {fresh_token}, owner = $4, head = $5, response = $6 \
                 WHERE scope = $1 AND key = $2 AND token = $3 AND state = 3 AND {raise} {one}"
            )),
            import: text(format!(
                "INSERT INTO {table} ({names}, ended_at, replay_until, attempt, state, holder, \
                     head, response) \
                 {values}{asked}, 0, {remember}, {keep}, 0, 0, {reserve}, {us}, {now}, {now}, \
                     {now} + {keep}, ({now} + {keep}) / 3600000 + 2, {now}, {now} + {remember}, 0, \
                     3, false, {head}, {response}{end} \
                 ON CONFLICT (scope, key) DO NOTHING {one}"
            )),
            import_over: text(format!(
                "{held} token = {fresh_token}, owner = $4, fingerprint = $9, lease_ms = 0, \
                     replay_ms = {remember}, remember_ms = {keep}, keep_ms = 0, reserve = 0, \
                     started_at = {now}, lease_until = {now}, expires_at = {now} + {keep}, \
                     sweep_hour = ({now} + {keep}) / 3600000 + 2, ended_at = {now}, \
                     replay_until = {now} + {remember}, attempt = 0, state = 3, reason = NULL, \
                     after = NULL, holder = false, history = false, checkpoint = NULL, \
                     head = $5, response = $6 \
                 WHERE scope = $1 AND key = $2 AND token = $3 AND {absent} AND {raise} {one}"
            )),
            due: text(format!(
                "SELECT scope, key, CAST(CASE WHEN expires_at + {MARGIN_MS} <= {now} THEN 1 ELSE 0 \
                     END AS bigint) \
                 FROM {table} AS t WHERE sweep_hour <= {now} / 3600000 ORDER BY sweep_hour LIMIT $1"
            )),
            remove: text(format!(
                "DELETE FROM {table} AS t WHERE scope = $1 AND key = $2 \
                     AND expires_at + {MARGIN_MS} <= {now} AND {life} <> 1 {state}",
                state = "RETURNING CAST(state AS bigint)"
            )),
            postpone: text(format!(
                "{held} sweep_hour = {later} / 3600000 + 1 WHERE scope = $1 AND key = $2 \
                     AND sweep_hour <= {now} / 3600000 {one}",
                later = dialect.greatest(&format!("expires_at + {MARGIN_MS}"), now)
            )),
            sweep: text(format!(
                "DELETE FROM {table} AS t WHERE (scope, key) IN (SELECT scope, key FROM {table} \
                     WHERE sweep_hour <= {now} / 3600000 AND expires_at + {MARGIN_MS} <= {now} \
                     ORDER BY sweep_hour LIMIT $1 {skip_locked}) \
                     AND expires_at + {MARGIN_MS} <= {now} AND {life} <> 1 \
                 RETURNING CAST(state AS bigint)"
            )),
            sweep_later: text(format!(
                "{held} sweep_hour = {later} / 3600000 + 1 \
                 WHERE (scope, key) IN (SELECT scope, key FROM {table} \
                     WHERE sweep_hour <= {now} / 3600000 AND expires_at + {MARGIN_MS} > {now} \
                     ORDER BY sweep_hour LIMIT $1 {skip_locked}) {one}",
                later = dialect.greatest(&format!("expires_at + {MARGIN_MS}"), now)
            )),
        }
    }
}
