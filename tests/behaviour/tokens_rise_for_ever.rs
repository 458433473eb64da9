//! S10: every attempt has a higher token than all before it: across release, expiry, takeover,
//! an operator's decision, a clean close, a crash, a loss of power and a clock set back.

use crate::common::*;
use onlyonce::*;

struct Rising(u64);

impl Rising {
    #[track_caller]
    fn next(&mut self, claim: &Claim) {
        let token = claim.token().get();
        assert!(token > self.0, "{token} after {}", self.0);
        assert!(token < 1 << 53);
        self.0 = token;
    }
}

#[test]
fn within_a_life() {
    let (store, clock) = store();
    let mut rising = Rising(0);
    let claim = store.claim("k");
    rising.next(&claim);
    claim.release().unwrap();

    let claim = store.claim("k");
    rising.next(&claim);
    drop(claim);

    let mut claim = granted(store.stuck("k").take_over().unwrap());
    rising.next(&claim);
    claim.complete(b"old").unwrap();
    assert_eq!(replayed(store.ask("k")).token().get(), rising.0);
    clock.advance(DAY);

    let claim = store.claim("k");
    rising.next(&claim);
    store.resolve_with(key("k"), Resolution::Free, ResolveOptions::forced()).unwrap();
    rising.next(&store.claim("k"));
}

#[test]
fn an_operator_s_record_has_a_token_of_its_own() {
    let (store, _) = store();
    let claim = store.claim("k");
    let completion = Completion { response: Some(b"by hand"), ..Completion::default() };
    let resolution = Resolution::Complete { fingerprint: None, completion };
    store.resolve_with(key("k"), resolution, ResolveOptions::forced()).unwrap();
    assert!(replayed(store.ask("k")).token() > claim.token());
}

#[test]
fn across_lives_however_they_end() {
    let mut sim = Sim::new();
    let mut rising = Rising(0);
    for round in 0..12 {
        let store = sim.open();
        for n in 0..5 {
            let claim = store.claim(&format!("{round} {n}"));
            rising.next(&claim);
            claim.release().unwrap();
        }
        sim.clock.set_wall(T0 - round * 3_600_000);
        match round % 3 {
            0 => drop(store.close().unwrap()),
            1 => sim.disk = sim.disk.kill(),
            _ => sim.disk = sim.disk.power_cut(),
        }
    }
}

#[test]
fn for_thousands_of_claims_in_one_life() {
    let sim = Sim::with(|options| {
        options.durability(Durability::Buffered { max_delay: HOUR }).background(false)
    });
    let store = sim.open();
    let mut rising = Rising(0);
    for _ in 0..20_000 {
        let claim = store.claim("k");
        rising.next(&claim);
        claim.release().unwrap();
    }
}
