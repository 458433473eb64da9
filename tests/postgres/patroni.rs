//! Failovers that somebody else manages: the primary of a Patroni cluster dies under load. The stores
//! read strictly, for the reason that `quorum` gives.

use crate::servers::{load::*, patroni::Managed, *};
use onlyonce::postgres::{PostgresOptions, Replication};
use std::time::Duration;

#[test]
fn the_primary_is_killed_under_load() {
    block_on_for(Duration::from_secs(600), async {
        let Some(bin) = programs() else { return };
        let Some(cluster) = Managed::start(bin) else { return };
        let primary = cluster.ready().await;
        let options = PostgresOptions::new(cluster.dsn(), Replication::Replicated);
        let options = options.sweep_every(None).max_response(4096).lease(LEASE).connections(8);
        let options = options.strict_read(true);
        options.migrate().await.unwrap();
        let stores = [options.connect().await.unwrap(), options.connect().await.unwrap()];
        let load = Load::start(&stores, 16);
        load.acknowledges(200).await;
        cluster.kill(primary);
        let next = cluster.ready().await;
        assert_ne!(next, primary);
        load.acknowledges(200).await;
        load.judge(&stores[0]).await;
    });
}
