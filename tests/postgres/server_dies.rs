//! One server, killed and restarted again and again with clients on it.

use crate::servers::{load::*, *};
use onlyonce::*;
use std::time::Duration;

#[test]
fn clients_go_on_when_it_is_back() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let server = Server::start(bin);
        let options = options(&server.dsn("postgres")).lease(LEASE).connections(8);
        options.migrate().await.unwrap();
        let store = options.connect().await.unwrap();
        let load = Load::start(std::slice::from_ref(&store), 16);
        for round in 0..3 {
            load.acknowledges(300).await;
            match round % 2 {
                0 => server.kill(),
                _ => server.stop(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.resume();
        }
        load.acknowledges(300).await;
        load.judge(&store).await;
    });
}

/// The process of a holder dies: nobody tells, and the lease says so.
#[test]
fn a_dead_holder_s_claim_ends_with_its_lease() {
    block_on(async {
        let Some((store, clock, _server)) = manual().await else { return };
        let holder = clock.options().connect().await.unwrap();
        let granted = AsyncStore::new(holder.clone()).begin(key("k"), print()).await.unwrap();
        let Begin::Execute(claim) = granted else { panic!("{granted:?}") };
        // Its process is no more: no drop, no connection.
        std::mem::forget(claim);
        holder.close();
        let store = AsyncStore::new(store);
        let found = store.begin(key("k"), print()).await.unwrap();
        assert!(matches!(found, Begin::InFlight(_)), "{found:?}");
        clock.advance(Duration::from_secs(60)).await;
        let found = store.begin(key("k"), print()).await.unwrap();
        let Begin::Interrupted(stuck) = found else { panic!("{found:?}") };
        assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::LeasePassed, false));
        let taken = stuck.take_over().await.unwrap();
        assert!(matches!(&taken, Begin::Execute(claim) if claim.attempt() == 2), "{taken:?}");
    });
}

/// A silent server (its machine hangs) is given up within the limits.
#[test]
fn a_hanging_server_is_not_waited_for() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let server = Server::start(bin);
        let options = options(&server.dsn("postgres"));
        options.migrate().await.unwrap();
        let limit = Duration::from_secs(3);
        let store = options.statement_limit(limit).deadline(limit * 2).connect().await.unwrap();
        let store = AsyncStore::new(store);
        let Begin::Execute(mut claim) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not granted")
        };
        server.freeze().await;
        let error = claim.complete(b"done").await.unwrap_err();
        assert!(matches!(error, ClaimError::Unavailable { .. }), "{error:?}");
        assert_eq!(
            (error.key_state(), error.retry()),
            (KeyState::Unknown, Retry::After(Duration::from_secs(1)))
        );
        let asked = store.begin(key("l"), print()).await;
        assert!(matches!(asked, Err(BeginError::Unavailable { .. })), "{asked:?}");
        server.thaw();
        // It has much to catch up with.
        until(async || claim.complete(b"done").await.is_ok()).await;
        let found = begin_patiently(&store, "k").await;
        assert!(matches!(found, Begin::Replay(_)), "{found:?}");
    });
}
