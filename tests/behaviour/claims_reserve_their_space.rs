//! S17, rule 6: a granted claim can be completed. Those that could not are refused before
//! anything runs, and nothing live is evicted.

use crate::common::*;
use onlyonce::*;

const LARGEST: usize = 16 << 10;

fn sim() -> Sim {
    Sim::with(|options| options.max_response(LARGEST).capacity(2 << 20).max_claims(2000))
}

/// Claims until the store is full, with `terms`.
fn fill(store: &Store, terms: Terms) -> Vec<Claim> {
    let mut claims = Vec::new();
    loop {
        let name = format!("filling {}", claims.len());
        match store.begin_with(key(&name), print(), terms) {
            Ok(begin) => claims.push(granted(begin)),
            Err(BeginError::StoreFull(Full::Space)) => return claims,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn all_that_were_granted_complete_although_the_store_is_full() {
    let mut sim = sim();
    let store = sim.open();
    let mut claims = fill(&store, Terms::default());
    assert!((100..128).contains(&claims.len()), "{}", claims.len());
    assert_eq!(store.stats().refused_full, 1);
    let error = store.begin(key("one more"), print()).unwrap_err();
    assert_eq!((error.key_state(), error.retry()), (KeyState::Unchanged, Retry::After(SECOND)));
    assert!(store.is_absent("one more"));
    for (n, claim) in claims.iter_mut().enumerate() {
        claim.complete(&[n as u8; LARGEST]).unwrap();
    }
    let check = |store: &Store| {
        for n in 0..claims.len() {
            assert_eq!(store.answer(&format!("filling {n}")), [n as u8; LARGEST]);
        }
    };
    check(&store);
    assert!(store.stats().segment_bytes <= 2 << 20);
    check(&sim.power_cut_and_open());
}

#[test]
fn what_is_given_back_can_be_claimed_again() {
    let sim = sim();
    let store = sim.open();
    let mut claims = fill(&store, Terms::default());
    let many = claims.len();
    claims.pop().unwrap().release().unwrap();
    let again = store.claim("released");
    drop(again);
    let again = store.claim("dropped");
    store.begin(key("full"), print()).unwrap_err();
    for mut claim in claims {
        claim.complete(b"small").unwrap();
    }
    // Small answers leave nearly all of the room to others.
    let more = fill_others(&store);
    assert!(more.len() > many - 5, "{} of {many}", more.len());
    drop(again);
}

fn fill_others(store: &Store) -> Vec<Claim> {
    let mut claims = Vec::new();
    while let Ok(begin) = store.begin(key(&format!("other {}", claims.len())), print()) {
        claims.push(granted(begin));
    }
    claims
}

#[test]
fn a_small_reserve_takes_little() {
    let sim = sim();
    let store = sim.open();
    let terms = Terms { reserve: Some(100), ..Terms::default() };
    let claims = fill(&store, terms);
    // Each could still be completed without a response, with the largest head.
    assert!(claims.len() > 350, "{}", claims.len());
    for mut claim in claims {
        let too_large = Err(ClaimError::ResponseTooLarge { len: 101, limit: 100 });
        assert_eq!(claim.complete(&[1; 101]), too_large);
        claim.complete_without_response(&[1; 4096]).unwrap();
    }
}

#[test]
fn an_expired_record_makes_room() {
    let sim = sim();
    let store = sim.open();
    let mut claims = fill(&store, Terms::default());
    claims.extend(fill_others(&store));
    claims.iter_mut().for_each(|claim| claim.complete(&[1; LARGEST]).unwrap());
    sim.clock.advance(DAY);
    for _ in 0..3 {
        store.housekeep().unwrap();
    }
    let bytes = store.stats().segment_bytes;
    let mut claims = fill(&store, Terms::default());
    assert!(claims.len() >= 100, "{}", claims.len());
    claims.iter_mut().for_each(|claim| claim.complete(&[2; LARGEST]).unwrap());
    assert_eq!(store.stats().segment_bytes, bytes);
}

/// What was promised in the segment that is being filled stays there when all its records have
/// expired: it is not closed then, though it would come back empty.
#[test]
fn an_expired_segment_stays_open_for_what_was_promised_in_it() {
    must_end(|| {
        let sim = Sim::with(|options| options.max_response(LARGEST).capacity(1 << 20));
        let store = sim.open();
        (0..10).for_each(|n| store.finish(&format!("old {n}"), &[1; LARGEST]));
        let mut claims = fill(&store, Terms::default());
        let free = store.stats().space_free;
        sim.clock.advance(DAY);
        store.housekeep().unwrap();
        assert_eq!(store.stats().space_free, free);
        claims.iter_mut().for_each(|claim| claim.complete(&[2; LARGEST]).unwrap());
    });
}

/// The store's own threads come back to it when the promises are over.
#[test]
fn an_expired_segment_goes_when_nothing_is_promised_in_it_any_more() {
    let sim = Sim::with(|options| options.max_response(LARGEST).capacity(1 << 20).background(true));
    let store = sim.open();
    store.finish("old", b"order 1");
    let claims = fill(&store, Terms::default());
    sim.clock.advance(DAY);
    store.housekeep().unwrap();
    assert_eq!(store.stats().records, 1);
    claims.into_iter().for_each(|claim| claim.release().unwrap());
    sim.clock.advance(SECOND);
    until(|| store.stats().records == 0);
}

#[test]
fn a_takeover_reserves_anew_and_the_late_handle_keeps_its_own() {
    let sim = sim();
    let store = sim.open();
    let claims = fill(&store, Terms::default());
    sim.clock.advance(MINUTE);
    let stuck = store.stuck("filling 0");
    let full = stuck.take_over().unwrap_err();
    assert_eq!(full, BeginError::StoreFull(Full::Space));
    assert_eq!(store.stuck("filling 0").attempts(), 1, "refused, and unchanged");
    let mut claims = claims.into_iter();
    let mut late = claims.next().unwrap();
    drop(claims.next());
    let mut taker = granted(store.stuck("filling 0").take_over().unwrap());
    store.stuck("filling 1").take_over().unwrap_err();
    assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced));
    drop(late);
    let mut other = granted(store.stuck("filling 1").take_over().unwrap());
    taker.complete(&[1; LARGEST]).unwrap();
    other.complete(&[1; LARGEST]).unwrap();
    claims.for_each(|mut claim| claim.complete(&[2; LARGEST]).unwrap());
}

#[test]
fn no_more_claims_than_the_claims_file_holds() {
    let sim = Sim::with(|options| options.max_claims(16));
    let store = sim.open();
    let room = store.stats().cells_free;
    let mut claims: Vec<_> = (0..room).map(|n| store.claim(&n.to_string())).collect();
    assert!(claims.len() >= 16);
    let full = store.begin(key("one more"), print()).unwrap_err();
    assert_eq!(full, BeginError::StoreFull(Full::Claims));
    // Interrupted keys count.
    drop(claims.pop());
    assert_eq!(store.begin(key("one more"), print()).unwrap_err(), full);
    // Those who hold or take over a claim are not refused: some cells are kept for them.
    let mut claim = claims.pop().unwrap();
    claim.save_checkpoint(&[1; 4096]).unwrap();
    let mut taken = granted(store.stuck(&(room - 1).to_string()).take_over().unwrap());
    taken.complete(b"order 2").unwrap();
    claim.complete(b"order 1").unwrap();
    store.claim("one more").release().unwrap();
}

/// What no claim has been promised space for waits until there is more, as long as there can be.
#[test]
fn a_failure_takes_space_that_is_still_to_be_made() {
    let sim = Sim::with(|options| options.max_claims(1000));
    let store = sim.open();
    let mut claims: Vec<_> = (0..300).map(|n: u32| store.claim(&n.to_string())).collect();
    let before = store.stats().segments;
    for (n, claim) in claims.iter_mut().enumerate() {
        claim.fail(&[n as u8; 4000]).unwrap_or_else(|error| panic!("failure {n}: {error}"));
    }
    assert!(store.stats().segments > before);
}

/// An operator's completion that finds the ring full takes its space once, however often it is
/// tried.
#[test]
fn a_full_ring_costs_no_space() {
    let fitting = |durability| {
        let sim = Sim::with(|options| options.durability(durability).capacity(1 << 20));
        let store = sim.open();
        for n in 0.. {
            let name = n.to_string();
            // Most leave their record in the ring, where it can stay.
            if n % 17 != 16 {
                match store.begin(key(&name), print()) {
                    Ok(begin) => granted(begin).complete(&[1; 4000]).unwrap(),
                    Err(_) => return n,
                }
                continue;
            }
            let completion = Completion { response: Some(&[2; 4000]), ..Completion::default() };
            let import = Resolution::Complete { fingerprint: Some(print()), completion };
            if store.resolve(key(&name), import).is_err() {
                return n;
            }
        }
        unreachable!()
    };
    let buffered = fitting(Durability::Buffered { max_delay: HOUR });
    assert_eq!(buffered, fitting(Durability::Synced));
    assert!(buffered > 100, "{buffered}");
}

/// Who appends without a promise takes the space when it tries. A try that finds the ring full has
/// used none.
#[test]
fn who_waited_for_room_in_the_ring_has_taken_no_more_space() {
    let left = |waits: bool| {
        let buffered = Durability::Buffered { max_delay: HOUR };
        let sim = Sim::with(|options| options.durability(buffered).max_response(LARGEST));
        let store = sim.open();
        for n in 0..10 {
            (0..n).for_each(|i| store.finish(&format!("{n}, {i}"), &[n; LARGEST]));
            if !waits {
                store.flush().unwrap();
            }
            let response = Some(&[n; LARGEST][..]);
            let completion = Completion { response, ..Completion::default() };
            let import = Resolution::Complete { fingerprint: Some(print()), completion };
            store.resolve(key(&format!("imported {n}")), import).unwrap();
        }
        store.flush().unwrap();
        store.stats().space_free
    };
    assert_eq!(left(true), left(false));
}
