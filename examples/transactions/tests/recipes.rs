//! The recipes on a real server: set `DATABASE_URL` (a database that may be written to), or have
//! PostgreSQL's programs in /usr/lib/postgresql, from which the test starts a server of its own.

use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onlyonce::{
    Fingerprint, KeyRef, Scope,
    conformance::{self, Facts, Subject},
    spi::{Completion, Terms},
    sql::*,
};
use sea_orm::{ConnectionTrait, Database, TransactionTrait};
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use transactions::{diesel_async_connection::OnDiesel, sea_orm_connection::OnSeaOrm};

/// A server of the test's own.
struct Server {
    url: String,
    child: Option<Child>,
    _dir: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn server() -> Option<Server> {
    if let Ok(url) = std::env::var("DATABASE_URL") {
        return Some(Server { url, child: None, _dir: None });
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let bin: PathBuf = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .find(|bin| bin.join("initdb").exists())?;
    let dir = tempfile::tempdir().unwrap();
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let as_postgres = |program: &str| {
        let program = bin.join(program);
        match root {
            false => Command::new(program),
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--reuid", "postgres", "--regid", "postgres"]);
                command.args(["--clear-groups", "--"]).arg(program);
                command
            }
        }
    };
    if root {
        Command::new("chown").arg("postgres").arg(dir.path()).status().unwrap();
    }
    let data = dir.path().join("data");
    let mut initdb = as_postgres("initdb");
    initdb.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "-D"]);
    assert!(initdb.arg(&data).current_dir("/").output().unwrap().status.success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut postgres = as_postgres("postgres");
    postgres.arg("-D").arg(&data).arg("-p").arg(port.to_string()).args(["-c", "fsync=off"]);
    postgres.arg("-c").arg(format!("unix_socket_directories={}", dir.path().display()));
    let child = postgres.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    Some(Server { url, child: Some(child.unwrap()), _dir: Some(dir) })
}

/// A pool of one connection after the other.
#[derive(Clone)]
struct Diesel(String);

struct Owned(AsyncPgConnection);

impl Connection for Owned {
    async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
        OnDiesel(&mut self.0).run(statement).await
    }
}

impl Pool for Diesel {
    type Connection = Owned;

    async fn get(&self) -> Result<Owned, SqlError> {
        let connection = AsyncPgConnection::establish(&self.0).await;
        connection.map(Owned).map_err(|error| SqlError::new(SqlErrorKind::Again, error))
    }

    fn end(&self, _: Owned) {}
}

#[derive(Clone)]
struct SeaOrm(sea_orm::DatabaseConnection);

struct Orm(sea_orm::DatabaseConnection);

impl Connection for Orm {
    async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
        OnSeaOrm(&self.0).run(statement).await
    }
}

impl Pool for SeaOrm {
    type Connection = Orm;

    async fn get(&self) -> Result<Orm, SqlError> {
        Ok(Orm(self.0.clone()))
    }

    fn end(&self, _: Orm) {}
}

struct Suite<P: Pool> {
    store: SqlStore<P>,
    clock: sea_orm::DatabaseConnection,
}

impl<P: Pool> Subject for Suite<P> {
    type Store = SqlStore<P>;

    fn store(&self) -> &SqlStore<P> {
        &self.store
    }

    async fn advance(&self, by: Duration) {
        let set = format!("UPDATE test_clock SET us = us + {}", by.as_micros());
        self.clock.execute_unprepared(&set).await.unwrap();
    }

    async fn settle(&self) {
        assert_eq!(self.store.drain(Duration::from_secs(60)).await, 0);
    }

    fn facts(&self) -> Facts {
        Facts { max_response: 4096, knows_handles: false, callers: 20, ..Facts::default() }
    }
}

fn done(response: &[u8]) -> Completion<'_> {
    Completion { response: Some(response), ..Completion::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipes() {
    let Some(server) = server() else {
        println!("skipped: no DATABASE_URL, and no PostgreSQL server is installed here");
        return;
    };
    let orm = loop {
        match Database::connect(&server.url).await {
            Ok(orm) => break orm,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let tables = "DROP TABLE IF EXISTS onlyonce, onlyonce_schema, onlyonce_sessions, recipe_orders, \
        test_clock; CREATE TABLE recipe_orders (item text NOT NULL UNIQUE); \
        CREATE TABLE test_clock (us bigint); INSERT INTO test_clock VALUES (1800000000000000);";
    orm.execute_unprepared(tables).await.unwrap();
    let options = SqlOptions::postgres().clock_us("(SELECT us FROM test_clock)");
    let options = options.max_response(4096).lock_timeout(Duration::from_millis(100));
    let keys = options.keys().unwrap();
    keys.create_in(&mut OnSeaOrm(&orm)).await.unwrap();
    let scope = Scope::of(["tenant", "orders"]);
    let (a, b) = (KeyRef::new(&scope, "a").unwrap(), KeyRef::new(&scope, "b").unwrap());
    let print = Fingerprint::of(["order", "book"]);

    // SeaORM: claim, effect and completion in one transaction; the second time it replays.
    for executes in [true, false] {
        let tx = orm.begin().await.unwrap();
        let found = keys.begin_in(&mut OnSeaOrm(&tx), a, print, Terms::default()).await.unwrap();
        match found {
            BeginIn::Execute(claim) => {
                assert!(executes);
                tx.execute_unprepared("INSERT INTO recipe_orders VALUES ('a')").await.unwrap();
                keys.complete_in(&mut OnSeaOrm(&tx), &claim, done(b"order a")).await.unwrap();
                // A duplicate meets the running one.
                let other = orm.begin().await.unwrap();
                let mut duplicate = OnSeaOrm(&other);
                let found = keys.begin_in(&mut duplicate, a, print, Terms::default()).await;
                assert!(matches!(found, Ok(BeginIn::InFlight)), "{found:?}");
                tx.commit().await.unwrap();
            }
            BeginIn::Replay(record) => {
                assert!(!executes);
                assert_eq!(record.response(), Some(&b"order a"[..]));
            }
            other => panic!("{other:?}"),
        }
    }

    // diesel-async.
    let mut diesel = AsyncPgConnection::establish(&server.url).await.unwrap();
    let mut second = AsyncPgConnection::establish(&server.url).await.unwrap();
    for executes in [true, false] {
        diesel.batch_execute("BEGIN").await.unwrap();
        let found = keys.begin_in(&mut OnDiesel(&mut diesel), b, print, Terms::default()).await;
        match found.unwrap() {
            BeginIn::Execute(claim) => {
                assert!(executes);
                let insert = diesel::sql_query("INSERT INTO recipe_orders VALUES ('b')");
                insert.execute(&mut diesel).await.unwrap();
                let completed =
                    keys.complete_in(&mut OnDiesel(&mut diesel), &claim, done(b"order b")).await;
                completed.unwrap();
                second.batch_execute("BEGIN").await.unwrap();
                let mut duplicate = OnDiesel(&mut second);
                let found = keys.begin_in(&mut duplicate, b, print, Terms::default()).await;
                assert!(matches!(found, Ok(BeginIn::InFlight)), "{found:?}");
                second.batch_execute("ROLLBACK").await.unwrap();
                diesel.batch_execute("COMMIT").await.unwrap();
            }
            BeginIn::Replay(record) => {
                assert!(!executes);
                assert_eq!(record.response(), Some(&b"order b"[..]));
                diesel.batch_execute("ROLLBACK").await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }

    // The suite through both.
    let options = options.deadline(Duration::from_secs(60));
    let store = options.connect_with(SeaOrm(orm.clone())).await.unwrap();
    let ran = conformance::run(&Suite { store, clock: orm.clone() }).await;
    assert!(ran.len() > 35, "{ran:?}");
    let store = options.connect_with(Diesel(server.url.clone())).await.unwrap();
    let ran = conformance::run(&Suite { store, clock: orm.clone() }).await;
    assert!(ran.len() > 35, "{ran:?}");
}
