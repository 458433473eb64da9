//! What is replayed is what was completed, byte for byte, with its head and times, for as long
//! as it is retained and not longer (S5, S16, rule 7).

use crate::common::*;
use onlyonce::*;

#[test]
fn responses_of_every_size_come_back_now_and_after_a_reopening() {
    let mut sim = Sim::new();
    let store = sim.open();
    let sizes = [0, 1, 7, 8, 9, 511, 512, 513, 4095, 4096];
    let response = |size: usize| (0..size).map(|n| (n * 31 + size) as u8).collect::<Vec<_>>();
    for size in sizes {
        store.finish(&size.to_string(), &response(size));
        assert_eq!(store.answer(&size.to_string()), response(size));
    }
    let store = sim.power_cut_and_open();
    sizes.iter().for_each(|&size| assert_eq!(store.answer(&size.to_string()), response(size)));
}

#[test]
fn an_empty_response_is_retained_and_none_is_not() {
    let (store, _) = store();
    store.finish("empty", b"");
    store.claim("none").complete_without_response(b"201").unwrap();
    assert_eq!(replayed(store.ask("empty")).response(), Some(&b""[..]));
    let none = replayed(store.ask("none"));
    assert_eq!((none.response(), none.head()), (None, &b"201"[..]));
}

#[test]
fn one_byte_too_many_leaves_the_claim_held_and_can_be_completed_without() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    let refused = claim.complete(&[7; 4097]);
    assert_eq!(refused, Err(ClaimError::ResponseTooLarge { len: 4097, limit: 4096 }));
    assert!(store.is_in_flight("k"));
    assert_eq!(claim.complete_without_response(&[1; 4096]), Ok(()));
    let record = replayed(store.ask("k"));
    assert_eq!((record.response(), record.head()), (None, &[1; 4096][..]));
}

#[test]
fn a_head_counts_and_is_bounded() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    let complete = |claim: &mut Claim, head: &[u8], response: &[u8]| {
        claim.complete_with(Completion { head, response: Some(response), retention: None })
    };
    let too_large = ClaimError::ResponseTooLarge { len: 4097, limit: 4096 };
    assert_eq!(complete(&mut claim, &[1; 97], &[2; 4000]), Err(too_large));
    let too_long = ClaimError::TooLong { what: "the head", len: 4097, limit: 4096 };
    assert_eq!(claim.complete_without_response(&[1; 4097]), Err(too_long));
    assert_eq!(complete(&mut claim, &[1; 96], &[2; 4000]), Ok(()));
    let record = replayed(store.ask("k"));
    assert_eq!((record.head(), record.response()), (&[1; 96][..], Some(&[2; 4000][..])));
}

#[test]
fn a_record_says_when_by_whom_and_until_when() {
    let (store, clock) = store();
    let mut claim = store.claim("k");
    let token = claim.token();
    clock.advance(SECOND);
    claim.complete(b"order 1").unwrap();
    clock.advance(HOUR);
    let record = replayed(store.ask("k"));
    assert_eq!(record.completed_at(), T0 + 1000);
    assert_eq!(record.expires_at(), T0 + 1000 + DAY.as_millis() as u64);
    assert_eq!(record.token(), token);
}

#[test]
fn retention_counts_from_completion_and_no_replay_extends_it() {
    let sim = Sim::with(|options| options.retention(10 * MINUTE).lease(MINUTE));
    let store = sim.open();
    let mut claim = store.claim("k");
    sim.clock.advance(30 * SECOND);
    claim.complete(b"order 1").unwrap();
    for _ in 0..9 {
        sim.clock.advance(MINUTE);
        assert_eq!(store.answer("k"), b"order 1");
    }
    sim.clock.advance(MINUTE - MS);
    assert_eq!(store.answer("k"), b"order 1");
    sim.clock.advance(MS);
    assert_eq!(store.claim("k").attempt(), 1);
}

#[test]
fn completion_beats_claim_beats_store() {
    let (store, _) = store();
    let terms = Terms { retention: Some(HOUR.into()), ..Terms::default() };
    let claim = |name| granted(store.begin_with(key(name), print(), terms).unwrap());
    claim("claim's").complete(b"").unwrap();
    let completion =
        Completion { response: Some(b""), retention: Some((2 * HOUR).into()), head: b"" };
    claim("completion's").complete_with(completion).unwrap();
    store.finish("store's", b"");
    let hours = |name: &str| (replayed(store.ask(name)).expires_at() - T0) / 3_600_000;
    assert_eq!([hours("claim's"), hours("completion's"), hours("store's")], [1, 2, 24]);
}
