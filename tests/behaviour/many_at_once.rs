//! Many keys at once: each request has the outcome that it would have alone, and all of them wait
//! for the disk together.

use crate::common::{
    futures::{block_on, drop_after},
    *,
};
use onlyonce::*;
use proptest::prelude::*;

const DURABILITIES: [Durability; 3] =
    [Durability::Synced, Durability::SyncedCompletions, Durability::Buffered { max_delay: HOUR }];

fn begin_all(store: &Store, names: &[&str]) -> Vec<Begin> {
    let requests = names.iter().map(|name| (key(name), print()));
    store.begin_many(requests).into_iter().map(Result::unwrap).collect()
}

fn claim_all(store: &Store, names: &[&str]) -> Vec<Claim> {
    begin_all(store, names).into_iter().map(granted).collect()
}

/// What a caller sees, tokens included.
fn seen(begin: &Result<Begin, BeginError>) -> String {
    match begin {
        Ok(Begin::Execute(claim)) => format!("attempt {} as {}", claim.attempt(), claim.token()),
        Ok(Begin::Replay(record)) => format!("{record:?} {:?}", record.response()),
        Ok(Begin::InFlight(pending)) => format!("in flight for {:?}", pending.running_for()),
        Ok(Begin::Interrupted(stuck)) => format!("{:?} after {}", stuck.reason(), stuck.attempts()),
        Ok(Begin::Mismatch { .. }) => "mismatch".into(),
        Err(error) => format!("{error:?}"),
    }
}

/// How a claim ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Complete(u8),
    Release,
    Drop,
    Hold,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        4 => any::<u8>().prop_map(End::Complete),
        1 => Just(End::Release),
        1 => Just(End::Drop),
        2 => Just(End::Hold),
    ]
}

/// Ends the claims. Completions come first, one after the other or together.
fn end_all(
    begun: Vec<Result<Begin, BeginError>>,
    ends: &[End],
    complete: impl Fn(&mut [(Claim, Vec<u8>)]) -> Vec<Result<(), ClaimError>>,
    held: &mut Vec<Claim>,
) -> Vec<Result<(), ClaimError>> {
    let mut completions = Vec::new();
    let mut others = Vec::new();
    for (begin, end) in begun.into_iter().zip(ends.iter().cycle()) {
        let Ok(Begin::Execute(claim)) = begin else { continue };
        match end {
            // Some are larger than the store takes.
            End::Complete(byte) => completions.push((claim, vec![*byte; *byte as usize * 20])),
            other => others.push((claim, *other)),
        }
    }
    let results = complete(&mut completions);
    for (claim, end) in others {
        match end {
            End::Release => claim.release().unwrap(),
            End::Hold => held.push(claim),
            _ => drop(claim),
        }
    }
    results
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Two stores under the same clock: one is asked for many keys at once, the other for one
    /// after the other.
    #[test]
    fn as_one_after_the_other(
        durability in prop::sample::select(&DURABILITIES[..]),
        batches in prop::collection::vec(
            (prop::collection::vec((0..12_usize, any::<bool>()), 1..20), prop::collection::vec(end(), 1..8)),
            1..12,
        ),
    ) {
        // So few claims fit that some are refused.
        let sim = || Sim::with(|options| options.durability(durability).max_claims(14));
        let (many, single) = (sim(), sim());
        let (in_batches, one_by_one) = (many.open(), single.open());
        let names: Vec<String> = (0..12).map(|n| format!("key {n}")).collect();
        let (mut held, mut held_singly) = (Vec::new(), Vec::new());
        for (requests, ends) in batches {
            let print = |same| if same { print() } else { other_print() };
            let asked: Vec<_> =
                requests.iter().map(|(n, same)| (key(&names[*n]), print(*same))).collect();
            let begun = in_batches.begin_many(asked.iter().copied());
            let singly: Vec<_> =
                asked.iter().map(|(key, print)| one_by_one.begin(*key, *print)).collect();
            let [left, right] = [&begun, &singly].map(|all| all.iter().map(seen).collect::<Vec<_>>());
            prop_assert_eq!(left, right);
            let together = |all: &mut [(Claim, Vec<u8>)]| {
                in_batches.complete_many(all.iter_mut().map(|(claim, bytes)| (claim, &bytes[..])))
            };
            let apart = |all: &mut [(Claim, Vec<u8>)]| {
                all.iter_mut().map(|(claim, bytes)| claim.complete(bytes)).collect()
            };
            prop_assert_eq!(
                end_all(begun, &ends, together, &mut held),
                end_all(singly, &ends, apart, &mut held_singly)
            );
            let [left, right] = [&in_batches, &one_by_one].map(|store| store.stats());
            prop_assert_eq!((left.records, left.in_flight, left.interrupted, left.holders),
                (right.records, right.in_flight, right.interrupted, right.holders));
            [&many.clock, &single.clock].iter().for_each(|clock| clock.advance(SECOND));
        }
    }
}

#[test]
fn all_wait_for_one_sync() {
    let names: Vec<String> = (0..32).map(|n| format!("key {n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let sim = Sim::with(|options| options.durability(Durability::Synced));
    let store = sim.open();
    store.finish("first", b"takes a segment into use");
    // A commit writes the pages that have changed, and syncs: of one claim there is one page.
    let calls = |work: &mut dyn FnMut()| {
        let before = sim.disk.calls();
        work();
        sim.disk.calls() - before
    };
    let mut claim = None;
    let alone = calls(&mut || claim = Some(store.claim("alone")));
    let mut claims = Vec::new();
    let together = calls(&mut || claims = claim_all(&store, &names));
    let pages = 32 * 256 * 8 / 4096;
    assert!(together <= alone + pages, "{together} calls, and one claim takes {alone}");
    let alone = calls(&mut || claim.take().unwrap().complete(&[1; 64]).unwrap());
    let together = calls(&mut || {
        let all = claims.iter_mut().map(|claim| (claim, &[2; 64][..]));
        assert!(store.complete_many(all).iter().all(Result::is_ok));
    });
    assert!(together <= alone + pages, "{together} calls, and one completion takes {alone}");
    drop(claims);
    assert!(names.iter().all(|name| store.answer(name) == [2; 64]));
}

#[test]
fn the_same_key_twice_is_in_flight() {
    for durability in DURABILITIES {
        let store = Sim::with(|options| options.durability(durability)).open();
        let mut begun = begin_all(&store, &["a", "b", "a"]).into_iter();
        let (mut first, second) = (granted(begun.next().unwrap()), begun.next().unwrap());
        let again = pending(begun.next().unwrap());
        drop(granted(second));
        first.complete(b"done").unwrap();
        assert_eq!(replayed(again.wait(SECOND).unwrap()).response(), Some(&b"done"[..]));
        assert_eq!(store.stuck("b").reason(), Reason::Dropped);
    }
}

#[test]
fn room_is_reserved_for_each_alone() {
    let store = Sim::with(|options| options.max_claims(14)).open();
    let names: Vec<String> = (0..40).map(|n| format!("key {n}")).collect();
    let begun = store.begin_many(names.iter().map(|name| (key(name), print())));
    let granted = begun.iter().take_while(|begin| matches!(begin, Ok(Begin::Execute(_)))).count();
    assert!((14..40).contains(&granted), "{granted}");
    let refused = |begin: &Result<_, _>| matches!(begin, Err(BeginError::StoreFull(Full::Claims)));
    assert!(begun[granted..].iter().all(refused));
}

#[test]
fn nothing_at_all() {
    let store = Store::in_memory().unwrap();
    assert!(store.begin_many([]).is_empty());
    assert!(store.complete_many([]).is_empty());
    assert!(block_on(AsyncStore::new(store).begin_many([])).is_empty());
}

#[test]
fn a_claim_of_another_store_is_completed_there() {
    let (one, other) = (Store::in_memory().unwrap(), Store::in_memory().unwrap());
    let (mut a, mut b) = (one.claim("a"), other.claim("b"));
    let done = one.complete_many([(&mut b, &b"of b"[..]), (&mut a, &b"of a"[..])]);
    assert_eq!(done, [Ok(()), Ok(())]);
    assert_eq!((one.answer("a"), other.answer("b")), (b"of a".to_vec(), b"of b".to_vec()));
    assert!(one.is_absent("b") && other.is_absent("a"));
    // As futures; and a backend that can't tell, which then takes them for others.
    let [one, other] = [one, other].map(AsyncStore::new);
    let claim = |store: &AsyncStore<Store>, name| {
        granted(block_on(store.begin(key(name), print())).unwrap())
    };
    let (mut c, mut d) = (claim(&one, "c"), claim(&other, "d"));
    let done = block_on(one.complete_many([(&mut d, &b"of d"[..]), (&mut c, &b"of c"[..])]));
    assert_eq!(done, [Ok(()), Ok(())]);
    assert_eq!(other.get_ref().answer("d"), b"of d");
    let any = AsyncStore::new(AnyStore::new(one.get_ref().clone()));
    let begun = block_on(any.begin_many([(key("e"), print()), (key("c"), print())]));
    let mut begun = begun.into_iter().map(Result::unwrap);
    let mut e = granted(begun.next().unwrap());
    assert_eq!(replayed(begun.next().unwrap()).response(), Some(&b"of c"[..]));
    assert_eq!(block_on(any.complete_many([(&mut e, &b"of e"[..])])), [Ok(())]);
    assert_eq!(one.get_ref().answer("e"), b"of e");
}

#[test]
fn a_future_that_is_dropped_claims_nothing() {
    must_end(|| {
        for polls in 0.. {
            let options =
                |options: Options| options.durability(Durability::Synced).background(true);
            let store = Sim::with(options).open();
            store.finish("first", b"takes a segment into use");
            let face = AsyncStore::new(store.clone());
            let requests = ["a", "b", "c"].map(|name| (key(name), print()));
            match drop_after(face.begin_many(requests), polls) {
                Err(()) => {
                    assert_eq!(store.stats().holders, 0);
                    assert!(["a", "b", "c"].iter().all(|name| store.is_absent(name)));
                }
                Ok(begun) => {
                    let mut claims: Vec<_> =
                        begun.into_iter().map(|begin| granted(begin.unwrap())).collect();
                    let all = claims.iter_mut().map(|claim| (claim, &b"done"[..]));
                    // Dropped after it was begun: the writes stand.
                    let _ = drop_after(face.complete_many(all), 1);
                    drop(claims);
                    store.flush().unwrap();
                    assert!(["a", "b", "c"].iter().all(|name| store.answer(name) == b"done"));
                    return;
                }
            }
        }
    });
}
