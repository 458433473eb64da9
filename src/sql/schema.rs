//! The tables, in one text for all dialects: that of the PostgreSQL backend.

use super::{
    connection::{Connection, Kind, SqlErrorKind, Statement, Value},
    keys::Keys,
};
use crate::error::OpenError;

const CREATE: &str = include_str!("../postgres/schema.sql");
/// The version that a program must know to use the tables.
const VERSION: i64 = 2;
/// The first revision of it that these statements can use.
const REVISION: i64 = 3;

/// The tables' names, quoted.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub table: String,
    version: String,
    sessions: String,
    due: String,
    slots: String,
}

impl Names {
    pub fn new(schema: Option<&str>, table: &str) -> Self {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let inside = |name: &str| match schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(name)),
            None => quoted(name),
        };
        Names {
            table: inside(table),
            version: inside(&format!("{table}_schema")),
            sessions: inside(&format!("{table}_sessions")),
            due: quoted(&format!("{table}_due")),
            slots: quoted(&format!("{table}_slots")),
        }
    }
}

/// The statements that create the tables, each for itself.
fn create_statements(keys: &Keys) -> Vec<String> {
    let names = keys.names();
    let lines: Vec<&str> =
        CREATE.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let mut statements = Vec::new();
    for statement in lines.join("\n").split(';').map(str::trim) {
        // Decisions are kept by `PostgresStore` alone, whose `migrate` adds their table.
        if statement.is_empty()
            || statement.starts_with("INSERT")
            || statement.contains("onlyonce_decisions")
        {
            continue;
        }
        // Settings of the table's storage are PostgreSQL's own.
        let statement = statement.split(" WITH (").next().unwrap_or(statement);
        let statement = statement
            .replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
            .replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS")
            .replace("uuid NOT NULL DEFAULT gen_random_uuid()", "text NOT NULL DEFAULT ''")
            .replace("onlyonce_schema", &names.version)
            .replace("onlyonce_sessions", &names.sessions)
            .replace("onlyonce_due", &names.due)
            .replace("onlyonce_slots", &names.slots)
            .replace("onlyonce ", &format!("{} ", names.table));
        statements.push(match keys.dialect().sqlite {
            true => statement
                .replace(" bytea", " BLOB")
                .replace(" bigint", " INTEGER")
                .replace(" smallint", " INTEGER")
                .replace(" boolean", " INTEGER")
                .replace(" integer", " INTEGER"),
            false => statement,
        });
    }
    statements.push(format!(
        "INSERT INTO {version} (version, revision, secret) SELECT 2, {REVISION}, {secret} \
         WHERE NOT EXISTS (SELECT 1 FROM {version})",
        version = names.version,
        secret = new_secret(),
    ));
    statements
}

/// A random secret, as a text of SQL.
fn new_secret() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("'{digits}'")
}

/// Creates the tables, if they are not there.
pub(super) async fn create(keys: &Keys, connection: &mut impl Connection) -> Result<(), OpenError> {
    for statement in create_statements(keys) {
        // Two that create a table at a time can meet, and one is refused; then it is there.
        for last in [false, false, true] {
            match connection.run(Statement::new(&statement, &[], &[])).await {
                Err(error) if !last && error.is_transient() => {}
                Err(error) => return Err(error.opening(&keys.names().table)),
                Ok(_) => break,
            }
        }
    }
    check(keys, connection).await.map(drop)
}

/// Checks that the tables exist, in a version that this code knows; returns the secret under which
/// events hash keys.
pub(super) async fn check(
    keys: &Keys,
    connection: &mut impl Connection,
) -> Result<String, OpenError> {
    let place = &keys.names().table;
    let version = format!(
        "SELECT CAST(max(version) AS bigint), CAST(max(coalesce(revision, version)) AS bigint), \
             max(CAST(secret AS text)) \
         FROM {}",
        keys.names().version
    );
    let kinds = [Kind::Int, Kind::Int, Kind::Text];
    let rows = match connection.run(Statement::new(&version, &[], &kinds)).await {
        Err(error) if error.kind() == SqlErrorKind::Schema => Vec::new(),
        rows => rows.map_err(|error| error.opening(place))?,
    };
    let mut secret = String::new();
    let found = match rows.first().map(Vec::as_slice) {
        Some([Value::Int(Some(version)), Value::Int(Some(revision)), kept]) => {
            if let Value::Text(Some(kept)) = kept {
                secret = kept.to_string();
            }
            (*version, *revision)
        }
        _ => (0, 0),
    };
    let (file, known) = (place.into(), REVISION as u32);
    match found {
        (version, revision) if version > VERSION => {
            Err(OpenError::Newer { file, found: revision.max(version) as u32, known })
        }
        (_, revision) if revision < REVISION => {
            Err(OpenError::NotMigrated { file, found: revision.max(0) as u32, known })
        }
        _ => {
            synced(keys, connection).await?;
            Ok(secret)
        }
    }
}

/// Checks that the connection syncs its commits.
async fn synced(keys: &Keys, connection: &mut impl Connection) -> Result<(), OpenError> {
    let Some(synced) = keys.dialect().synced else { return Ok(()) };
    let rows = connection.run(Statement::new(synced, &[], &[Kind::Int])).await;
    let rows = rows.map_err(|error| error.opening(&keys.names().table))?;
    match rows.first().map(Vec::as_slice) {
        Some([Value::Int(Some(0 | 1))]) => Err(OpenError::options(
            "SQLite doesn't sync this connection's commits (PRAGMA synchronous): with less than \
             FULL a loss of power takes back what was acknowledged. Set it on all connections, or \
             allow unsynced_commits",
        )),
        _ => Ok(()),
    }
}
