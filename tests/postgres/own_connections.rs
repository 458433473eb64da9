//! Claims on connections, and in transactions, of the caller's own library.

use crate::servers::{proxy::*, *};
use onlyonce::{
    conformance::{Facts, Subject},
    postgres::tokio_postgres::{Client, NoTls},
    sql::*,
    *,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// A pool of the caller's own making, of plain clients of tokio-postgres.
#[derive(Clone)]
struct Clients {
    dsn: String,
    free: Arc<Mutex<Vec<Client>>>,
}

struct Borrowed {
    client: Option<Client>,
    free: Arc<Mutex<Vec<Client>>>,
}

impl Connection for Borrowed {
    fn run(
        &mut self,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<Rows, SqlError>> + Send {
        self.client.as_mut().unwrap().run(statement)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.free.lock().unwrap().extend(self.client.take());
    }
}

impl Pool for Clients {
    type Connection = Borrowed;

    async fn get(&self) -> Result<Borrowed, SqlError> {
        let free = self.free.lock().unwrap().pop();
        let client = match free {
            Some(client) => client,
            None => {
                let connected = tokio_postgres::connect(&self.dsn, NoTls).await;
                let (client, connection) =
                    connected.map_err(|error| SqlError::new(SqlErrorKind::Again, error))?;
                tokio::spawn(connection);
                client
            }
        };
        Ok(Borrowed { client: Some(client), free: self.free.clone() })
    }

    fn end(&self, mut connection: Borrowed) {
        connection.client = None;
    }
}

fn clients(dsn: &str) -> Clients {
    Clients { dsn: dsn.into(), free: Arc::default() }
}

fn deadpool(dsn: &str) -> deadpool_postgres::Pool {
    let manager = deadpool_postgres::Manager::new(dsn.parse().unwrap(), NoTls);
    deadpool_postgres::Pool::builder(manager).max_size(8).build().unwrap()
}

#[cfg(feature = "sqlx")]
fn sqlx_pool(server: &Server, database: &str, user: &str) -> sqlx::PgPool {
    let url = format!("postgres://{user}@127.0.0.1:{}/{database}", server.port);
    sqlx::postgres::PgPoolOptions::new().max_connections(8).connect_lazy(&url).unwrap()
}

struct OnPool<P: Pool> {
    store: SqlStore<P>,
    clock: ServerClock,
}

impl<P: Pool> Subject for OnPool<P> {
    type Store = SqlStore<P>;

    fn store(&self) -> &SqlStore<P> {
        &self.store
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by).await;
    }

    async fn settle(&self) {
        assert_eq!(self.store.drain(PATIENCE).await, 0);
    }

    async fn resolve(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> Option<Result<(), StoreError>> {
        Some(self.store.resolve_with(key, resolution, options).await)
    }

    fn facts(&self) -> Facts {
        Facts { max_response: 4096, knows_handles: false, callers: 40, ..Facts::default() }
    }
}

fn manual(options: SqlOptions) -> SqlOptions {
    options.clock_us("test_now()").max_response(4096).deadline(PATIENCE)
}

async fn conforms<P: Pool>(options: SqlOptions, clock: ServerClock, pool: P) {
    let store = manual(options).connect_with(pool).await.unwrap();
    let ran = conformance::run(&OnPool { store, clock }).await;
    assert!(ran.len() > 40, "{ran:?}");
}

/// A server, a database with the tables in it, and its clock.
async fn database() -> Option<(Arc<Server>, String, ServerClock)> {
    let server = Server::shared()?;
    let database = server.database().await;
    let clock = ServerClock::new(&server, &database).await;
    Some((server, database, clock))
}

#[test]
fn the_suite_on_clients_of_tokio_postgres() {
    block_on(async {
        let Some((server, name, clock)) = database().await else { return };
        conforms(SqlOptions::postgres(), clock, clients(&server.dsn(&name))).await;
    });
}

#[test]
fn the_suite_on_a_pool_of_deadpool() {
    block_on(async {
        let Some((server, name, clock)) = database().await else { return };
        conforms(SqlOptions::postgres(), clock, deadpool(&server.dsn(&name))).await;
    });
}

#[cfg(feature = "sqlx")]
#[test]
fn the_suite_on_a_pool_of_sqlx() {
    block_on(async {
        let Some((server, name, clock)) = database().await else { return };
        conforms(SqlOptions::postgres(), clock, sqlx_pool(&server, &name, "postgres")).await;
    });
}

/// What else other engines don't have. It can't be revoked, so the server's log of statements must be
/// without it.
const NOT_COMMON: [&str; 8] = [
    "LISTEN",
    "NOTIFY",
    "SKIP LOCKED",
    "FOR UPDATE",
    "lock_timeout",
    "SET LOCAL",
    "advisory",
    "ctid",
];

/// A database with tables that belong to a role without the functions that other engines don't have,
/// on a server that logs the statements.
async fn database_without_functions() -> Option<(Arc<Server>, String, ServerClock)> {
    let logging = "log_statement = all\nlog_line_prefix = '%u '\n";
    let server = Arc::new(Server::start_with(programs()?, logging));
    let name = server.database().await;
    let clock = ServerClock::new(&server, &name).await;
    let revoke = "DO $$ DECLARE f regprocedure; BEGIN \
        CREATE ROLE plain LOGIN; \
        FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE proname ~ 'advisory' \
            OR proname IN ('pg_notify', 'set_config', 'current_setting', \
                'pg_logical_emit_message', 'pg_terminate_backend', 'pg_backend_pid', \
                'row_to_json', 'json_populate_recordset') LOOP \
            EXECUTE 'REVOKE EXECUTE ON FUNCTION ' || f || ' FROM PUBLIC'; \
        END LOOP; END $$; \
        DROP TABLE onlyonce, onlyonce_schema, onlyonce_sessions; \
        GRANT ALL ON SCHEMA public TO plain; GRANT SELECT ON test_clock TO plain";
    server.sql(&name, revoke).await;
    for refused in ["pg_advisory_lock(1)", "pg_notify('a', 'b')", "set_config('a.b', 'c', true)"] {
        let client = connect_as(&server, &name, "plain").await;
        let error = client.simple_query(&format!("SELECT {refused}")).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{refused}");
    }
    let mut client = connect_as(&server, &name, "plain").await;
    let keys = SqlOptions::portable().keys().unwrap();
    let missing = keys.check_in(&mut client).await;
    assert!(matches!(missing, Err(OpenError::NotMigrated { found: 0, .. })), "{missing:?}");
    keys.create_in(&mut client).await.unwrap();
    // Repeatable.
    keys.create_in(&mut client).await.unwrap();
    Some((server, name, clock))
}

fn used_only_what_is_common(server: &Server) {
    let log = server.log();
    let of_role = |line: &&str| line.starts_with("plain ") && line.contains("onlyonce");
    let statements: Vec<&str> = log.lines().filter(of_role).collect();
    assert!(statements.len() > 20, "{log}");
    for statement in statements {
        let found = NOT_COMMON.iter().find(|word| statement.contains(**word));
        assert_eq!(found, None, "{statement}");
    }
}

fn dsn_as(server: &Server, database: &str, user: &str) -> String {
    format!("host=127.0.0.1 port={} user={user} dbname={database}", server.port)
}

async fn connect_as(server: &Server, database: &str, user: &str) -> Client {
    let dsn = dsn_as(server, database, user);
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[test]
fn the_suite_in_portable_statements() {
    block_on(async {
        let Some((server, name, clock)) = database_without_functions().await else { return };
        let pool = deadpool(&dsn_as(&server, &name, "plain"));
        conforms(SqlOptions::portable(), clock, pool).await;
        used_only_what_is_common(&server);
    });
}

/// Statements that leave nothing in a session go through a pooler that gives one to each transaction.
#[test]
fn the_suite_through_a_pooler_of_transactions() {
    block_on(async {
        let Some((server, name, clock)) = database().await else { return };
        let Some(pooler) = pooler::Pooler::start(&server, "transaction") else { return };
        conforms(SqlOptions::postgres(), clock, clients(&pooler.dsn(&name))).await;
        let pool = clients(&pooler.dsn(&name));
        claims_are_transactions(pool, &server, &name, async |connection| {
            send(connection, INSERT).await.is_ok()
        })
        .await;
    });
}

#[test]
fn sweeping_in_portable_statements() {
    block_on(async {
        let Some((server, name, clock)) = database_without_functions().await else { return };
        let pool = deadpool(&dsn_as(&server, &name, "plain"));
        sweeps(SqlOptions::portable(), pool, &server, &name, clock).await;
        used_only_what_is_common(&server);
    });
}

#[test]
fn sweeping_in_batches() {
    block_on(async {
        let Some((server, name, clock)) = database().await else { return };
        let pool = deadpool(&server.dsn(&name));
        sweeps(SqlOptions::postgres(), pool, &server, &name, clock).await;
    });
}

async fn sweeps(
    options: SqlOptions,
    pool: deadpool_postgres::Pool,
    server: &Server,
    name: &str,
    clock: ServerClock,
) {
    let store = manual(options).connect_with(pool).await.unwrap();
    let face = AsyncStore::new(store.clone());
    let begin = async |name: &str| match face.begin(key(name), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("{other:?}"),
    };
    for n in 0..20 {
        begin(&format!("k{n}")).await.complete(b"done").await.unwrap();
    }
    // One that lives longer than its claim had said.
    let mut long = begin("long").await;
    let retention = Some(Retention::of(Duration::from_secs(30 * 24 * 3600)));
    let done = spi::Completion { response: Some(b"1"), retention, ..Default::default() };
    long.complete_with(done).await.unwrap();
    assert_eq!(store.sweep().await.unwrap(), 0);
    clock.advance(Duration::from_secs(27 * 3600)).await;
    assert_eq!(store.sweep().await.unwrap(), 20);
    assert_eq!(store.sweep().await.unwrap(), 0);
    assert_eq!((store.counts().rows_swept, store.counts().rows_postponed), (20, 1));
    assert!(store.get(key("long")).await.unwrap().is_some());
    let rows = server.sql(name, "SELECT count(*) FROM onlyonce").await;
    assert_eq!(rows.as_deref(), Some("1"));
}

#[test]
fn outcomes_and_alarms_are_counted() {
    block_on(async {
        for options in [SqlOptions::portable(), SqlOptions::postgres()] {
            let Some((server, name, clock)) = database().await else { return };
            let (options, pool) = (manual(options).max_attempts(2), deadpool(&server.dsn(&name)));
            let (one, two) = (options.connect_with(pool.clone()), options.connect_with(pool));
            let (one, two) = (one.await.unwrap(), two.await.unwrap());
            let advance = async |by| clock.advance(by).await;
            crate::sql_counted::outcomes_and_alarms_are_counted(one, two, advance).await;
        }
    });
}

async fn send(connection: &mut impl Connection, text: &str) -> Result<Rows, SqlError> {
    connection.run(Statement::new(text, &[], &[])).await
}

fn executing(found: BeginIn) -> ClaimIn {
    match found {
        BeginIn::Execute(claim) => claim,
        other => panic!("no claim, but {other:?}"),
    }
}

fn done(response: &[u8]) -> spi::Completion<'_> {
    spi::Completion { response: Some(response), ..Default::default() }
}

const ORDERS: &str = "CREATE TABLE orders (request text UNIQUE)";
const INSERT: &str = "INSERT INTO orders VALUES ('k')";

/// Claim, effect and completion in transactions on these two connections.
async fn in_transactions(
    keys: &Keys,
    server: &Server,
    database: &str,
    one: &mut impl Connection,
    two: &mut impl Connection,
) {
    server.sql(database, ORDERS).await;
    let orders = async || server.sql(database, "SELECT count(*) FROM orders").await.unwrap();
    // Rolled back: the key is as it was.
    send(one, "BEGIN").await.unwrap();
    let first = executing(keys.begin_in(one, key("k"), print(), Terms::default()).await.unwrap());
    send(one, INSERT).await.unwrap();
    keys.complete_in(one, &first, done(b"lost")).await.unwrap();
    send(one, "ROLLBACK").await.unwrap();
    // Whatever the caller's transaction had set, the completion is durable.
    send(one, "BEGIN").await.unwrap();
    send(one, "SET LOCAL synchronous_commit = off").await.unwrap();
    send(one, "SET LOCAL lock_timeout = 12345").await.unwrap();
    let again = executing(keys.begin_in(one, key("k"), print(), Terms::default()).await.unwrap());
    assert!(again.token() > first.token() && again.attempt() == 1);
    assert_eq!(again.derive_key("order"), first.derive_key("order"));
    // A duplicate meets the running one.
    send(two, "BEGIN").await.unwrap();
    let found = keys.begin_in(two, key("k"), print(), Terms::default()).await.unwrap();
    assert!(matches!(found, BeginIn::InFlight), "{found:?}");
    send(two, "ROLLBACK").await.unwrap();
    send(one, INSERT).await.unwrap();
    keys.complete_in(one, &again, done(b"order 1")).await.unwrap();
    // Twice is once, and with other bytes refused.
    keys.complete_in(one, &again, done(b"order 1")).await.unwrap();
    let other = keys.complete_in(one, &again, done(b"order 2")).await;
    assert_eq!(other, Err(ClaimError::DifferentResponse));
    let show = "SELECT current_setting('synchronous_commit') || current_setting('lock_timeout')";
    let shown = one.run(Statement::new(show, &[], &[Kind::Text])).await.unwrap();
    assert_eq!(shown, [[Value::Text(Some("on12345ms".into()))]]);
    send(one, "COMMIT").await.unwrap();
    assert_eq!(orders().await, "1");
    send(one, "BEGIN").await.unwrap();
    let found = keys.begin_in(one, key("k"), print(), Terms::default()).await.unwrap();
    let BeginIn::Replay(record) = found else { panic!("{found:?}") };
    assert_eq!(record.response(), Some(&b"order 1"[..]));
    let print_of_other = Fingerprint::of(["other"]);
    let found = keys.begin_in(one, key("k"), print_of_other, Terms::default()).await.unwrap();
    assert!(matches!(found, BeginIn::Mismatch { scheme: 0 }), "{found:?}");
    // A claim of a transaction that is over holds nothing.
    let late = keys.complete_in(one, &first, done(b"late")).await;
    assert_eq!(late, Err(ClaimError::Fenced));
    // A unique column of the caller's own is told by its own statement; the transaction is over.
    let twice = executing(keys.begin_in(one, key("l"), print(), Terms::default()).await.unwrap());
    assert_eq!(send(one, INSERT).await.unwrap_err().kind(), SqlErrorKind::Unique);
    let refused = keys.complete_in(one, &twice, done(b"order 2")).await;
    assert!(matches!(refused, Err(ClaimError::Unavailable { .. })), "{refused:?}");
    send(one, "ROLLBACK").await.unwrap();
    // Two that are serializable: the second one is told to do everything again.
    for connection in [Some(()), None] {
        let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE";
        match connection {
            Some(()) => drop(send(one, begin).await.unwrap()),
            None => drop(send(two, begin).await.unwrap()),
        }
    }
    send(two, "SELECT count(*) FROM orders").await.unwrap();
    let claim = executing(keys.begin_in(one, key("m"), print(), Terms::default()).await.unwrap());
    keys.complete_in(one, &claim, done(b"order 3")).await.unwrap();
    send(one, "COMMIT").await.unwrap();
    let found = keys.begin_in(two, key("m"), print(), Terms::default()).await;
    let Err(error @ BeginError::Unavailable { .. }) = found else { panic!("{found:?}") };
    assert!(error.to_string().contains("40001"), "{error}");
    assert!(matches!(error.retry(), Retry::After(_)));
    send(two, "ROLLBACK").await.unwrap();
    let found = keys.begin_in(two, key("m"), print(), Terms::default()).await.unwrap();
    assert!(matches!(found, BeginIn::Replay(_)), "{found:?}");
    // What was prepared is gone, or has other columns now: an error at most once, and never another
    // statement.
    for spoil in ["DEALLOCATE ALL", "ALTER TABLE onlyonce ADD COLUMN IF NOT EXISTS more integer"] {
        send(two, spoil).await.unwrap();
        for _ in 0..2 {
            if let Err(error) = keys.begin_in(two, key("m"), print(), Terms::default()).await {
                assert!(matches!(error, BeginError::Unavailable { .. }), "{error:?}");
            }
        }
    }
}

fn keys() -> Keys {
    SqlOptions::postgres().lock_timeout(Duration::from_millis(100)).keys().unwrap()
}

#[test]
fn transactions_of_tokio_postgres() {
    block_on(async {
        let Some((server, name, _)) = database().await else { return };
        let mut one = server.connect(&name).await.unwrap();
        let mut two = server.connect(&name).await.unwrap();
        in_transactions(&keys(), &server, &name, &mut one, &mut two).await;
        let mut tx = one.transaction().await.unwrap();
        let found = keys().begin_in(&mut tx, key("k"), print(), Terms::default()).await.unwrap();
        assert!(matches!(found, BeginIn::Replay(_)), "{found:?}");
    });
}

#[test]
fn transactions_of_deadpool() {
    block_on(async {
        let Some((server, name, _)) = database().await else { return };
        let pool = deadpool(&server.dsn(&name));
        let (mut one, mut two) = (pool.get().await.unwrap(), pool.get().await.unwrap());
        in_transactions(&keys(), &server, &name, &mut one, &mut two).await;
        let mut tx = one.transaction().await.unwrap();
        let found = keys().begin_in(&mut tx, key("k"), print(), Terms::default()).await.unwrap();
        assert!(matches!(found, BeginIn::Replay(_)), "{found:?}");
    });
}

#[cfg(feature = "sqlx")]
#[test]
fn transactions_of_sqlx() {
    block_on(async {
        let Some((server, name, _)) = database().await else { return };
        let pool = sqlx_pool(&server, &name, "postgres");
        let mut one = pool.acquire().await.unwrap();
        let mut two = pool.acquire().await.unwrap();
        in_transactions(&keys(), &server, &name, &mut *one, &mut *two).await;
        // Beside a store that has connections of its own, too.
        let store = options(&server.dsn(&name)).connect().await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        let begin = store.begin_in(&mut tx, key("n"), print(), Terms::default());
        let claim = executing(begin.await.unwrap());
        sqlx::query("INSERT INTO orders VALUES ('n')").execute(&mut *tx).await.unwrap();
        store.complete_in(&mut tx, &claim, done(b"order n")).await.unwrap();
        tx.commit().await.unwrap();
        let found = AsyncStore::new(store).begin(key("n"), print()).await.unwrap();
        assert!(matches!(found, Begin::Replay(_)), "{found:?}");
    });
}

/// The connection is lost at the `COMMIT`: done again with the same key, it replays if that took
/// effect, and executes if not.
#[test]
fn a_commit_without_an_answer_is_done_again() {
    block_on(async {
        for (lose, replayed) in [(Lose::Answer, true), (Lose::Request, false)] {
            let Some((server, name, _)) = database().await else { return };
            server.sql(&name, ORDERS).await;
            let proxy = Proxy::start(server.port).await;
            let dsn = format!("host=127.0.0.1 port={} user=postgres dbname={name}", proxy.port);
            let (mut client, connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
            tokio::spawn(connection);
            let keys = keys();
            let mut tx = client.transaction().await.unwrap();
            let begin = keys.begin_in(&mut tx, key("k"), print(), Terms::default());
            let claim = executing(begin.await.unwrap());
            tx.batch_execute(INSERT).await.unwrap();
            keys.complete_in(&mut tx, &claim, done(b"order 1")).await.unwrap();
            proxy.strike(0, lose);
            tx.commit().await.unwrap_err();
            let mut client = server.connect(&name).await.unwrap();
            let mut found = None;
            until(async || {
                // While its session has not ended, it is in flight.
                let mut tx = client.transaction().await.unwrap();
                match keys.begin_in(&mut tx, key("k"), print(), Terms::default()).await.unwrap() {
                    BeginIn::InFlight => false,
                    BeginIn::Replay(_) => {
                        found = Some(true);
                        true
                    }
                    BeginIn::Execute(claim) => {
                        tx.batch_execute(INSERT).await.unwrap();
                        keys.complete_in(&mut tx, &claim, done(b"order 1")).await.unwrap();
                        tx.commit().await.unwrap();
                        found = Some(false);
                        true
                    }
                    other => panic!("{other:?}"),
                }
            })
            .await;
            assert_eq!(found, Some(replayed));
            let orders = server.sql(&name, "SELECT count(*) FROM orders").await;
            assert_eq!(orders.as_deref(), Some("1"));
        }
    });
}

/// Claims that are transactions, on a pool of the caller's.
async fn claims_are_transactions<P: Pool>(
    pool: P,
    server: &Server,
    name: &str,
    insert: impl AsyncFn(&mut P::Connection) -> bool,
) {
    server.sql(name, ORDERS).await;
    let options = SqlOptions::postgres().lock_timeout(Duration::from_millis(100));
    let store = options.deadline(PATIENCE).connect_with(pool).await.unwrap();
    let shop = AsyncStore::new(store.in_transactions());
    let orders = async || server.sql(name, "SELECT count(*) FROM orders").await.unwrap();
    let claim = async || match shop.begin(key("k"), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("no claim, but {other:?}"),
    };
    // However it ends undecided, nothing has happened.
    let mut failed = claim().await;
    assert!(insert(&mut failed.transaction().await.unwrap()).await);
    failed.fail(b"500").await.unwrap();
    assert_eq!(failed.complete(b"late").await, Err(ClaimError::Fenced));
    let dropped = claim().await;
    assert!(insert(&mut dropped.transaction().await.unwrap()).await);
    drop(dropped);
    assert_eq!(store.drain(PATIENCE).await, 0);
    assert_eq!(orders().await, "0");
    // A statement that fails: the answer can be kept alone.
    let mut refused = claim().await;
    assert!(insert(&mut refused.transaction().await.unwrap()).await);
    assert!(!insert(&mut refused.transaction().await.unwrap()).await, "it is unique");
    let failed = refused.complete(b"409").await;
    assert!(matches!(failed, Err(ClaimError::EffectsFailed { .. })), "{failed:?}");
    refused.undo_effects().await.unwrap();
    let found = shop.begin(key("k"), print()).await.unwrap();
    let Begin::InFlight(pending) = found else { panic!("{found:?}") };
    let waiting = tokio::spawn(pending.wait(PATIENCE));
    assert!(insert(&mut refused.transaction().await.unwrap()).await);
    refused.complete(b"order 1").await.unwrap();
    refused.complete(b"order 1").await.unwrap();
    let found = waiting.await.unwrap().unwrap();
    assert!(matches!(found, Begin::Replay(_)), "{found:?}");
    assert_eq!(orders().await, "1");
}

#[test]
fn claims_are_transactions_of_deadpool() {
    block_on(async {
        let Some((server, name, _)) = database().await else { return };
        claims_are_transactions(deadpool(&server.dsn(&name)), &server, &name, async |connection| {
            connection.batch_execute(INSERT).await.is_ok()
        })
        .await;
    });
}

#[cfg(feature = "sqlx")]
#[test]
fn claims_are_transactions_of_sqlx() {
    block_on(async {
        let Some((server, name, _)) = database().await else { return };
        let pool = sqlx_pool(&server, &name, "postgres");
        claims_are_transactions(pool, &server, &name, async |connection| {
            sqlx::query(INSERT).execute(&mut **connection).await.is_ok()
        })
        .await;
    });
}
