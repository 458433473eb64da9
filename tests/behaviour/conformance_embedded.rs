//! The embedded store keeps the promises of a backend: table 1.2, row by row, in every setting of
//! its durability. (The column Completing is in `completing_twice_joins`, a process that dies in
//! `crashes_interrupt`.)

use crate::common::{futures::block_on, *};
use onlyonce::{
    conformance::{Facts, Subject},
    *,
};
use std::time::Duration;

struct Embedded {
    store: Store,
    clock: ManualClock,
}

impl Subject for Embedded {
    type Store = Store;

    fn store(&self) -> &Store {
        &self.store
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn resolve(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> Option<Result<(), StoreError>> {
        Some(self.store.resolve_with(key, resolution, options))
    }

    fn facts(&self) -> Facts {
        Facts { max_response: 4096, ..Facts::default() }
    }
}

fn conforms(durability: Durability) {
    must_end(move || {
        let sim = Sim::with(|options| {
            let options = options.durability(durability).background(true).max_claims(1024);
            options.ring_bytes(256 << 10).capacity(32 << 20)
        });
        let subject = Embedded { store: sim.open(), clock: sim.clock.clone() };
        let ran = block_on(conformance::run(&subject));
        assert!(ran.len() > 40, "{ran:?}");
        // Claims whose handles the suite has kept are all that is left.
        assert_eq!(subject.store.stats().waiters, 0);
    });
}

#[test]
fn synced() {
    conforms(Durability::Synced);
}

#[test]
fn synced_completions() {
    conforms(Durability::SyncedCompletions);
}

#[test]
fn buffered() {
    conforms(Durability::Buffered { max_delay: SECOND });
}
