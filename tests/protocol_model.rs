//! Every interleaving of a small world: two clients, one key, a clock, syncs of the claims file
//! and of the log, losses of power. The state machine is the store's own (`src/claim.rs`);
//! around it stands what the engine does with it: which answers wait for which sync, when a
//! claim's cells are cleared, and what recovery makes of what a crash left.
//!
//! Checked by `stateright`, exhaustively within the bounds of [`World`]. That the properties can
//! fail is shown by worlds with one flaw each; that the model is the store's is shown by random
//! walks that both take. `WALKS=<n>` takes more.

#[path = "../src/claim.rs"]
#[allow(dead_code)]
mod claim;

/// What `claim.rs` imports.
#[path = "../src/broken.rs"]
#[allow(dead_code)]
mod broken;
mod fingerprint {
    pub use onlyonce::Fingerprint;
}
mod record {
    pub use onlyonce::Reason;
}
mod token {
    pub use onlyonce::Token;
}

#[path = "protocol/agreement.rs"]
mod agreement;
#[path = "protocol/world.rs"]
mod world;

use stateright::{Checker, HasDiscoveries, Model};
use world::{Flaw, World};

/// Two clients, and everything can happen to them twice.
const SMALL: World =
    World { clients: 2, ticks: 3, crashes: 1, attempts: 2, tokens: 3, flaw: Flaw::None };

#[test]
fn nothing_in_a_small_world_breaks_the_protocol() {
    for world in [
        SMALL,
        World { crashes: 2, ticks: 2, ..SMALL },
        World { clients: 3, ticks: 2, tokens: 2, ..SMALL },
    ] {
        let checker = world.checker().threads(2).spawn_bfs().join();
        println!("{world:?}: {} states", checker.unique_state_count());
        checker.assert_properties();
    }
}

/// The properties above can fail.
#[test]
fn each_flaw_is_found() {
    for (flaw, broken) in [
        (Flaw::ClaimAnsweredBeforeSync, "nobody executes anew unwarned"),
        (Flaw::CompletionAnsweredBeforeSync, "an answer never changes"),
        (Flaw::VisibleBeforeDurable, "an answer never changes"),
        (Flaw::ClearedBeforeDurable, "nobody executes anew unwarned"),
        (Flaw::LowestTokenWins, "the newest token counts"),
        (Flaw::LeaseLapsesWhileCompleting, "nobody executes anew unwarned"),
        (Flaw::NobodyIsFenced, "the newest token counts"),
        (Flaw::ReleaseForgets, "nobody executes anew unwarned"),
        (Flaw::ForgottenBeforeSettled, "the newest token counts"),
    ] {
        let found = HasDiscoveries::AnyOf([broken].into());
        let checker = World { flaw, ..SMALL }.checker().finish_when(found);
        let checker = checker.threads(2).spawn_bfs().join();
        let found = checker.discovery(broken);
        assert!(found.is_some(), "{flaw:?} is not found by {broken:?}");
    }
}
