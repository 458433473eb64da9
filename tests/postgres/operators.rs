//! Decisions of operators, and calls that arrive late.

use crate::servers::{
    proxy::{Lose, Proxy},
    *,
};
use onlyonce::*;
use std::time::Duration;

/// An operator decides about what was seen: not about an attempt that has begun since.
#[test]
fn a_decision_is_about_what_was_seen() {
    block_on(async {
        let Some((plain, clock, _server)) = manual().await else { return };
        let store = AsyncStore::new(plain.clone());
        let Begin::Execute(claim) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not granted")
        };
        drop(claim);
        plain.drain(PATIENCE).await;
        let seen = plain.get(key("k")).await.unwrap().unwrap().token;
        let Begin::Interrupted(stuck) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not interrupted")
        };
        let Begin::Execute(second) = stuck.take_over().await.unwrap() else { panic!("not taken") };
        std::mem::forget(second);
        clock.advance(Duration::from_secs(3600)).await;
        let late = plain
            .resolve_with(key("k"), Resolution::Free, ResolveOptions::forced().seen(seen))
            .await;
        assert!(matches!(late, Err(StoreError::NotApplicable { .. })), "{late:?}");
        let now = plain.get(key("k")).await.unwrap().unwrap();
        assert_eq!(now.attempts, 2);
        assert_eq!(
            plain
                .resolve_with(key("k"), Resolution::Free, ResolveOptions::new().seen(now.token))
                .await,
            Ok(())
        );
        let gone = plain
            .resolve_with(key("k"), Resolution::Free, ResolveOptions::forced().seen(now.token))
            .await;
        assert!(matches!(gone, Err(StoreError::NotApplicable { state: "absent" })), "{gone:?}");
    });
}

/// A checkpoint that was delayed on its way arrives after a later one: the later one stays.
#[test]
fn a_late_checkpoint_changes_nothing() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let proxy = Proxy::start(server.port).await;
        let dsn = format!("host=127.0.0.1 port={} user=postgres dbname={database}", proxy.port);
        let hasty = options(&dsn).notify(false).connections(2);
        let hasty = hasty.lock_timeout(Duration::from_millis(20));
        let hasty = hasty.statement_limit(Duration::from_millis(500));
        let plain = hasty.deadline(PATIENCE).connect().await.unwrap();
        let store = AsyncStore::new(plain.clone());
        let Begin::Execute(mut claim) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not granted")
        };
        claim.save_checkpoint(b"first").await.unwrap();
        // The next statement stays on its way; its repetition is done.
        proxy.strike(0, Lose::Late);
        claim.save_checkpoint(b"second").await.unwrap();
        assert_eq!(proxy.struck(), 1);
        claim.save_checkpoint(b"third").await.unwrap();
        proxy.release().await;
        let checkpoint = async || match plain.get(key("k")).await.unwrap().unwrap().state {
            State::InFlight { checkpoint, .. } => checkpoint.unwrap().to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(checkpoint().await, b"third");
        // Nor does it bring back what has been given up.
        proxy.strike(0, Lose::Late);
        claim.renew().await.unwrap();
        drop(claim);
        assert_eq!(plain.drain(PATIENCE).await, 0);
        proxy.release().await;
        let state = plain.get(key("k")).await.unwrap().unwrap().state;
        assert!(matches!(state, State::Interrupted { holder_gone: true, .. }), "{state:?}");
    });
}
