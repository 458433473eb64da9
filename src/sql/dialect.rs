//! What the statements of two databases don't have in common.

use std::time::Duration;

/// Fragments of text in which the statements differ.
#[derive(Clone, Debug)]
pub(crate) struct Dialect {
    /// The present time in microseconds.
    pub us: String,
    /// A condition that is always true, and makes the commit of its transaction durable.
    pub raise: String,
    /// Sets how long the rest of the transaction waits for locks: a table of one row.
    pub limit: Option<String>,
    /// Sets that back: the value of a column.
    pub restore: String,
    /// What is known of the holder of row `t`.
    pub life: String,
    pub sqlite: bool,
    /// Rows that others have locked are left out.
    pub skip_locked: &'static str,
    /// One statement never concerns more than one key.
    pub one_key: bool,
    /// Returns how a connection syncs its commits, from 0 to 3; 2 is enough.
    pub synced: Option<&'static str>,
}

impl Dialect {
    /// PostgreSQL. `raised`: the values of `synchronous_commit` that don't do.
    pub fn postgres(us: &str, lock_timeout: Option<Duration>, raised: &str) -> Self {
        let limit = lock_timeout.map(|limit| {
            let limit = limit.as_millis();
            format!(
                "(SELECT set_config('onlyonce.was', current_setting('lock_timeout'), true), \
                 set_config('lock_timeout', '{limit}', true)) AS waits"
            )
        });
        let restore = match limit {
            Some(_) => {
                "set_config('lock_timeout', coalesce(nullif(\
                 current_setting('onlyonce.was', true), ''), current_setting('lock_timeout')), true)"
            }
            None => "NULL",
        };
        Dialect {
            us: format!("({us})"),
            raise: format!(
                "coalesce((SELECT set_config('synchronous_commit', 'on', true) \
                 WHERE current_setting('synchronous_commit') IN ({raised})), '') IS NOT NULL"
            ),
            limit,
            restore: restore.into(),
            life: "0".into(),
            sqlite: false,
            skip_locked: "FOR UPDATE SKIP LOCKED",
            one_key: false,
            synced: None,
        }
    }

    /// What PostgreSQL and the engines that speak its language have in common.
    pub fn portable(us: &str) -> Self {
        Dialect {
            us: format!("({us})"),
            raise: "true".into(),
            limit: None,
            restore: "NULL".into(),
            life: "0".into(),
            sqlite: false,
            skip_locked: "",
            one_key: true,
            synced: None,
        }
    }

    /// SQLite, where one transaction writes at a time. `unsynced`: commits need not be synced.
    pub fn sqlite(us: &str, unsynced: bool) -> Self {
        let synced = (!unsynced).then_some("SELECT synchronous FROM pragma_synchronous");
        Dialect { sqlite: true, one_key: false, synced, ..Dialect::portable(us) }
    }

    /// The present time in milliseconds.
    pub fn now(&self) -> String {
        format!("({} / 1000)", self.us)
    }

    /// The larger of two values.
    pub fn greatest(&self, a: &str, b: &str) -> String {
        let function = if self.sqlite { "max" } else { "greatest" };
        format!("{function}({a}, {b})")
    }

    /// The smaller of two values.
    pub fn least(&self, a: &str, b: &str) -> String {
        let function = if self.sqlite { "min" } else { "least" };
        format!("{function}({a}, {b})")
    }

    /// A text in which parameters are `$1`, as this database wants it.
    pub fn text(&self, text: String) -> String {
        if self.sqlite { text.replace('$', "?") } else { text }
    }
}

/// PostgreSQL's time.
pub(crate) const POSTGRES_US: &str =
    "CAST(date_part('epoch', clock_timestamp()) * 1000000 AS bigint)";
/// SQLite's time, in any of its versions.
pub(crate) const SQLITE_US: &str = "CAST((julianday('now') - 2440587.5) * 86400000000 AS integer)";
