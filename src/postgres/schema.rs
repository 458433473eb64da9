//! The tables: their names, creating them, and knowing their version.

use super::{
    options::PostgresOptions,
    pool::{Session, Sessions},
    trouble::DbError,
};
use crate::error::OpenError;

/// The version of the tables that this code uses.
pub(super) const VERSION: i32 = 2;

const CREATE: &str = include_str!("schema.sql");
/// The scripts that bring each version to the next, from the first.
const UPGRADES: [&str; 1] = [include_str!("upgrade_2.sql")];

/// The tables' names, quoted.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub table: String,
    version: String,
    pub sessions: String,
    index: String,
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
            index: quoted(&format!("{}_due", options.table)),
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
            .replace("onlyonce_due", &self.index)
            .replace("onlyonce ", &format!("{} ", self.table))
    }

    /// The version of the tables, `None` if there are none.
    async fn found(&self, session: &Session) -> Result<Option<i32>, DbError> {
        let exists = "SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL";
        let row = session.query_one(exists, &[&self.table, &self.version]).await;
        if !row.map_err(|error| DbError::of(&error))?.get::<_, bool>(0) {
            return Ok(None);
        }
        let version = format!("SELECT max(version) FROM {}", self.version);
        let row = session.query_one(&version, &[]).await;
        Ok(row.map_err(|error| DbError::of(&error))?.get(0))
    }

    /// Checks that the tables exist in the version that this code uses.
    pub async fn check(&self, session: &Session, place: &str) -> Result<(), OpenError> {
        let found = self.found(session).await.map_err(|trouble| trouble.opening(place))?;
        let file = format!("table {}", self.table);
        match found {
            Some(VERSION) => Ok(()),
            None => Err(OpenError::NotMigrated { file, found: 0, known: VERSION as u32 }),
            Some(found) if found < VERSION => Err(OpenError::NotMigrated {
                file,
                found: found.max(0) as u32,
                known: VERSION as u32,
            }),
            Some(found) => {
                Err(OpenError::Newer { file, found: found as u32, known: VERSION as u32 })
            }
        }
    }
}

impl PostgresOptions {
    /// Creates the tables, or brings them to this version, in one transaction under an advisory
    /// lock: any number of processes may call it at their start, and it can be repeated.
    ///
    /// # Errors
    /// [`OpenError::Denied`] for a database role that may not create tables: run
    /// [`schema_sql`](Self::schema_sql) (or `src/postgres/schema.sql`) by other means then.
    /// [`OpenError::Newer`] if the tables have a later version.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        let names = Names::of(self);
        let sessions = Sessions::new(self)?;
        let place = sessions.place().to_owned();
        let session = sessions.connect().await.map_err(|trouble| trouble.opening(&place))?;
        migrate(&names, &session).await.map_err(|trouble| trouble.opening(&place))?;
        names.check(&session, &place).await
    }
}

async fn migrate(names: &Names, session: &Session) -> Result<(), DbError> {
    let run = async |sql: &str| {
        session.batch_execute(sql).await.map_err(|error| match error.code() {
            Some(code) if *code == tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE => {
                DbError::Denied(error.as_db_error().map_or(String::new(), |e| e.message().into()))
            }
            _ => DbError::of(&error),
        })
    };
    // Waits as long as another migration takes; ends with the connection at the latest.
    run(&format!("SET lock_timeout = 0; SELECT pg_advisory_lock({})", names.lock)).await?;
    match names.found(session).await? {
        None => run(&format!("BEGIN; {} COMMIT", names.create())).await?,
        Some(version @ 1..VERSION) => {
            for upgrade in &UPGRADES[version as usize - 1..] {
                run(&format!("BEGIN; {} COMMIT", names.named(upgrade))).await?;
            }
        }
        Some(_) => {}
    }
    run(&format!("SELECT pg_advisory_unlock({})", names.lock)).await
}
