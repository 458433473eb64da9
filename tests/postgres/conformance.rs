//! The PostgreSQL backend keeps the promises of a backend, on a real server whose clock stands
//! still until it is told to move; in each of the ways in which it can be opened.

use crate::servers::*;
use onlyonce::{
    conformance::{Facts, Subject},
    postgres::{PostgresOptions, PostgresStore},
    *,
};
use std::time::Duration;

struct OnServer {
    store: PostgresStore,
    clock: ServerClock,
    knows_handles: bool,
}

impl Subject for OnServer {
    type Store = PostgresStore;

    fn store(&self) -> &PostgresStore {
        &self.store
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by).await;
    }

    async fn settle(&self) {
        assert_eq!(self.store.drain(Duration::from_secs(20)).await, 0);
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
        let knows_handles = self.knows_handles;
        Facts { max_response: 4096, knows_handles, callers: 40, ..Facts::default() }
    }
}

fn conforms(change: impl Fn(PostgresOptions) -> PostgresOptions) {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let clock = ServerClock::new(&server, &database).await;
        let store = change(clock.options()).connect().await.unwrap();
        let knows_handles = store.holds_session();
        let ran = conformance::run(&OnServer { store, clock, knows_handles }).await;
        assert!(ran.len() > 40, "{ran:?}");
    });
}

#[test]
fn through_a_pooler_that_keeps_sessions() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let Some(pooler) = pooler::Pooler::start(&server, "session") else { return };
        let database = server.database().await;
        let clock = ServerClock::new(&server, &database).await;
        let options = options(&pooler.dsn(&database)).clock_us("test_now()");
        let store = options.connect().await.unwrap();
        let ran = conformance::run(&OnServer { store, clock, knows_handles: false }).await;
        assert!(ran.len() > 40, "{ran:?}");
    });
}

#[test]
fn a_session_stands_for_the_holders() {
    conforms(|options| options.holder_session(true));
    // And one that answers strictly.
    conforms(|options| options.holder_session(true).strict_read(true));
}

#[test]
fn one_server() {
    conforms(|options| options);
}

#[test]
fn strict_reads() {
    conforms(|options| options.strict_read(true));
}

#[test]
fn one_connection_and_no_notifications() {
    conforms(|options| options.connections(1).notify(false));
}

#[test]
fn a_table_of_another_name() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        server.sql(&database, "CREATE SCHEMA \"Shop 2\"").await;
        let clock = ServerClock::new(&server, &database).await;
        let options = clock.options().schema("Shop 2").table("idempotency \"keys\"");
        assert!(matches!(options.connect().await, Err(OpenError::NotMigrated { found: 0, .. })));
        options.migrate().await.unwrap();
        // Repeatable.
        options.migrate().await.unwrap();
        let store = options.connect().await.unwrap();
        conformance::run(&OnServer { store, clock, knows_handles: false }).await;
    });
}
