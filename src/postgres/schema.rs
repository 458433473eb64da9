//! The tables: their names, creating them, and knowing their version.

use super::{
    options::PostgresOptions,
    pool::{Session, Sessions},
    trouble::DbError,
};
use crate::error::OpenError;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

/// The version that a program must know to use the tables.
const VERSION: i32 = 2;
/// The revision of the tables that this code uses. It also uses later ones of its version, which
/// only add to it: so a program and its next one run side by side while one replaces the other.
const REVISION: i32 = 4;

const CREATE: &str = include_str!("schema.sql");
/// The scripts that bring each version to the next, from the first.
const UPGRADES: [&str; 3] =
    [include_str!("upgrade_2.sql"), include_str!("upgrade_3.sql"), include_str!("upgrade_4.sql")];
/// How long a migration waits for the lock of a table at a time: all other callers wait behind it.
const LOCK_MS: u32 = 300;
/// How long it pauses before it tries again.
const PAUSE: Duration = Duration::from_millis(700);
/// How long it tries.
const PATIENCE: Duration = Duration::from_secs(120);

/// The tables' names, quoted.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub table: String,
    version: String,
    pub sessions: String,
    pub decisions: String,
    index: String,
    slots: String,
    /// The channel on which changes are notified, and a number for advisory locks.
    pub channel: String,
    pub lock: i64,
}

impl Names {
    pub fn of(options: &PostgresOptions) -> Names {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let in_schema = |name: &str| format!("{}.{}", quoted(&options.schema), quoted(name));
        let table = in_schema(&options.table);
        let hash = blake3::hash(table.as_bytes());
        let lock = i64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
        Names {
            version: in_schema(&format!("{}_schema", options.table)),
            sessions: in_schema(&format!("{}_sessions", options.table)),
            decisions: in_schema(&format!("{}_decisions", options.table)),
            index: quoted(&format!("{}_due", options.table)),
            slots: quoted(&format!("{}_slots", options.table)),
            channel: format!("onlyonce_{}", &hash.to_hex()[..16]),
            lock,
            table,
        }
    }

    /// The statements that create the tables.
    pub fn create(&self) -> String {
        self.named(CREATE)
    }

    /// The same statements for these names.
    fn named(&self, sql: &str) -> String {
        // The comments would not survive every name.
        let statements: Vec<&str> =
            sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        statements
            .join("\n")
            .replace("onlyonce_schema", &self.version)
            .replace("onlyonce_sessions", &self.sessions)
            .replace("onlyonce_decisions", &self.decisions)
            .replace("onlyonce_due", &self.index)
            .replace("onlyonce ", &format!("{} ", self.table))
    }

    /// The version of the tables and their revision, `None` if there are none.
    async fn found(&self, session: &Session) -> Result<Option<(i32, i32, String)>, DbError> {
        let exists = "SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL";
        let row = session.query_one(exists, &[&self.table, &self.version]).await;
        if !row.map_err(|error| DbError::of(&error))?.get::<_, bool>(0) {
            return Ok(None);
        }
        // Tables of before there were revisions have no such column.
        let version = format!(
            "SELECT max(version), \
             max(coalesce((to_jsonb(s) ->> 'revision')::integer, version)), \
             coalesce(max(to_jsonb(s) ->> 'secret'), '') FROM {} AS s",
            self.version
        );
        let row = session.query_one(&version, &[]).await;
        let row = row.map_err(|error| DbError::of(&error))?;
        let (version, revision): (Option<i32>, Option<i32>) = (row.get(0), row.get(1));
        Ok(version.zip(revision).map(|(version, revision)| (version, revision, row.get(2))))
    }

    /// Checks that the tables exist, in a revision that this code uses. Returns their secret.
    pub async fn check(&self, session: &Session, place: &str) -> Result<String, OpenError> {
        let found = self.found(session).await.map_err(|trouble| trouble.opening(place))?;
        let file = format!("table {}", self.table);
        let known = REVISION as u32;
        match found {
            None => Err(OpenError::NotMigrated { file, found: 0, known }),
            Some((version, revision, _)) if version > VERSION => {
                Err(OpenError::Newer { file, found: revision.max(version) as u32, known })
            }
            Some((_, revision, _)) if revision < REVISION => {
                Err(OpenError::NotMigrated { file, found: revision.max(0) as u32, known })
            }
            Some((.., secret)) => Ok(secret),
        }
    }
}

impl PostgresOptions {
    /// Creates the tables, or brings them to this version, under an advisory lock: any number of
    /// processes may call it at their start, and it can be repeated.
    ///
    /// Run it before the first process of a new version starts. Processes of the version before
    /// continue, and can be started again, beside it (`docs/backends.md`).
    ///
    /// It waits for other transactions that use the table (a report, a dump, a session that was left
    /// open) for moments only, and lets the store's calls pass in between, for two minutes in all. A
    /// dropped future leaves nothing that waits.
    ///
    /// # Errors
    /// [`OpenError::Denied`] for a database role that may not create tables: run
    /// [`schema_sql`](Self::schema_sql) (or `src/postgres/schema.sql`) by other means then.
    /// [`OpenError::Newer`] if the tables have a later version. [`OpenError::Unreachable`] if no
    /// server answers, or the table was in use all the time.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        let names = Names::of(self);
        let sessions = Sessions::new(self)?;
        let place = sessions.place().to_owned();
        let session = sessions.connect_unshared().await;
        let session = session.map_err(|trouble| trouble.opening(&place))?;
        migrate(&names, &session).await.map_err(|trouble| trouble.opening(&place))?;
        names.check(&session, &place).await.map(drop)
    }
}

impl PostgresOptions {
    /// Creates the index by which slots are moved elsewhere
    /// ([`PostgresStore::copy_slots`](super::PostgresStore::copy_slots)), over slot, scope and key.
    /// Only moving needs it, and it makes each first claim of a key dearer, so it is not one of the
    /// tables' own: create it before a move, and drop it (`DROP INDEX onlyonce_slots`) when there
    /// are no more.
    ///
    /// It is built beside running calls (`CREATE INDEX CONCURRENTLY`), which takes as long as two
    /// passes over the table, and waits for transactions that are open. One that was left half built
    /// is built again.
    ///
    /// # Errors
    /// As with [`migrate`](Self::migrate).
    pub async fn index_slots(&self) -> Result<(), OpenError> {
        let names = Names::of(self);
        let sessions = Sessions::new(self)?;
        let place = sessions.place().to_owned();
        let session = sessions.connect_unshared().await;
        let session = session.map_err(|trouble| trouble.opening(&place))?;
        names.check(&session, &place).await?;
        let built = "SELECT count(*) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid \
            WHERE i.indrelid = to_regclass($1) AND c.relname = $2 AND i.indisvalid";
        let name = format!("{}_slots", self.table);
        let of = |error: tokio_postgres::Error| DbError::of(&error).opening(&place);
        let row = session.query_one(built, &[&names.table, &name]).await.map_err(of)?;
        if row.get::<_, i64>(0) > 0 {
            return Ok(());
        }
        let in_schema = format!("\"{}\".{}", self.schema.replace('"', "\"\""), names.slots);
        let drop = format!("DROP INDEX IF EXISTS {in_schema}");
        session.batch_execute(&drop).await.map_err(of)?;
        let create = format!(
            "CREATE INDEX CONCURRENTLY {} ON {} (slot, scope, key)",
            names.slots, names.table
        );
        session.batch_execute(&create).await.map_err(of)
    }
}

async fn migrate(names: &Names, session: &Session) -> Result<(), DbError> {
    // A session that waits on the server would do so after its client is gone. Another migration
    // ends, or its session does.
    let lock = format!("SELECT pg_try_advisory_lock({})", names.lock);
    loop {
        let row = session.query_one(&lock, &[]).await;
        if row.map_err(|error| DbError::of(&error))?.get(0) {
            break;
        }
        sleep(PAUSE).await;
    }
    match names.found(session).await? {
        None => change(session, &names.create()).await?,
        Some((version, revision, _)) if version <= VERSION && revision >= 1 => {
            for upgrade in UPGRADES.iter().skip(revision as usize - 1) {
                change(session, &names.named(upgrade)).await?;
            }
        }
        Some(_) => {}
    }
    let unlock = format!("SELECT pg_advisory_unlock({})", names.lock);
    session.batch_execute(&unlock).await.map_err(|error| DbError::of(&error))
}

/// Runs statements in one transaction. While it waits for a lock on the table, all others wait
/// behind it: so it waits for moments only, again and again.
async fn change(session: &Session, sql: &str) -> Result<(), DbError> {
    let until = Instant::now() + PATIENCE;
    let change = format!("BEGIN; SET LOCAL lock_timeout = {LOCK_MS}; {sql} COMMIT");
    loop {
        let Err(error) = session.batch_execute(&change).await else { return Ok(()) };
        let trouble = match error.code() {
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                DbError::Denied(error.as_db_error().map_or(String::new(), |e| e.message().into()))
            }
            _ => DbError::of(&error),
        };
        if !matches!(trouble, DbError::Locked) {
            return Err(trouble);
        }
        if Instant::now() >= until {
            let what = "the table is in use by other transactions all the time";
            return Err(DbError::Unreachable(what.into()));
        }
        tracing::info!("the table is in use: its change is tried again");
        session.batch_execute("ROLLBACK").await.map_err(|error| DbError::of(&error))?;
        sleep(PAUSE).await;
    }
}
