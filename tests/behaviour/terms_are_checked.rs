//! Terms that cannot be kept are refused before anything runs, never clamped: by `begin`, by a
//! completion, by the options of a store.

use crate::common::*;
use onlyonce::*;
use std::time::Duration;

const TEN_YEARS: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// In milliseconds this is a little more than 2^64.
const WRAPS: Duration = Duration::from_secs(18_446_744_073_709_552);

#[track_caller]
fn refused(terms: Terms) {
    let (store, _) = store();
    let error = store.begin_with(key("k"), print(), terms).unwrap_err();
    assert!(matches!(error, BeginError::Terms { .. }), "{error:?}");
    assert_eq!((error.key_state(), error.retry()), (KeyState::Unchanged, Retry::Never));
    assert!(store.is_absent("k"));
    assert_eq!(store.stats().space_free, self::store().0.stats().space_free);
}

#[track_caller]
fn accepted(terms: Terms) {
    let (store, _) = store();
    let claim = granted(store.begin_with(key("k"), print(), terms).unwrap());
    claim.release().unwrap();
}

fn lease(lease: Duration) -> Terms {
    Terms { lease: Some(lease), ..Terms::default() }
}

fn retention(replay_for: Duration, remember_for: Duration) -> Terms {
    let retention = Some(Retention { replay_for, remember_for });
    Terms { retention, ..Terms::default() }
}

#[test]
fn leases() {
    refused(lease(Duration::ZERO));
    refused(lease(Duration::from_micros(999)));
    refused(lease(30 * DAY + MS));
    refused(lease(Duration::MAX));
    accepted(lease(MS));
    let longest = Terms { retention: Some((30 * DAY).into()), ..lease(30 * DAY) };
    accepted(longest);
}

#[test]
fn a_lease_beyond_what_milliseconds_can_count() {
    refused(lease(WRAPS));
}

#[test]
fn the_lease_is_never_the_retention() {
    refused(lease(DAY + MS));
    accepted(lease(DAY));
    refused(retention(MINUTE - MS, MINUTE - MS));
    accepted(retention(MINUTE, MINUTE));
    accepted(Terms { lease: Some(SECOND), ..retention(SECOND, SECOND) });
}

#[test]
fn retentions() {
    refused(retention(Duration::ZERO, Duration::ZERO));
    refused(retention(HOUR, HOUR - MS));
    refused(retention(HOUR, TEN_YEARS + MS));
    refused(retention(Duration::MAX, Duration::MAX));
    refused(retention(WRAPS, WRAPS));
    accepted(retention(TEN_YEARS, TEN_YEARS));
    accepted(retention(MINUTE, TEN_YEARS));
}

#[test]
fn reserves() {
    let reserve = |bytes| Terms { reserve: Some(bytes), ..Terms::default() };
    refused(reserve(4097));
    refused(reserve(u32::MAX));
    accepted(reserve(4096));
    let (store, _) = store();
    let mut claim = granted(store.begin_with(key("k"), print(), reserve(0)).unwrap());
    let too_large = claim.complete(b"x");
    assert_eq!(too_large, Err(ClaimError::ResponseTooLarge { len: 1, limit: 0 }));
    claim.complete(b"").unwrap();
    assert_eq!(store.answer("k"), b"");
}

#[test]
fn a_completion_s_retention() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    let mut complete = |replay_for, remember_for| {
        let retention = Some(Retention { replay_for, remember_for });
        claim.complete_with(Completion { response: Some(b"order 1"), retention, head: b"" })
    };
    for (replay_for, remember_for) in [
        (Duration::ZERO, DAY),
        (DAY, DAY - MS),
        (DAY, TEN_YEARS + MS),
        (Duration::MAX, Duration::MAX),
        (WRAPS, WRAPS),
    ] {
        let error = complete(replay_for, remember_for).unwrap_err();
        assert!(matches!(error, ClaimError::Terms { .. }), "{error:?}");
        assert_eq!(error.key_state(), KeyState::Unchanged);
        assert!(store.is_in_flight("k"), "still held");
    }
    assert_eq!(complete(TEN_YEARS, TEN_YEARS), Ok(()));
    assert_eq!(replayed(store.ask("k")).expires_at(), T0 + TEN_YEARS.as_millis() as u64);
}

#[test]
fn waiting_for_ever_is_no_overflow() {
    must_end(|| {
        let (store, _) = threaded();
        let mut claim = store.claim("k");
        let pending = pending(store.ask("k"));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pending.wait(Duration::MAX).unwrap());
            until(|| store.stats().waiters == 1);
            claim.complete(b"order 1").unwrap();
            assert_eq!(replayed(waiter.join().unwrap()).response(), Some(&b"order 1"[..]));
        });
    });
}

/// Which of two values is wrong is the caller's to say, so both are named.
#[test]
fn a_message_gives_both_values() {
    let (store, _) = store();
    let begin = |terms| store.begin_with(key("k"), print(), terms).unwrap_err().to_string();
    let said = [
        (begin(lease(DAY + SECOND)), ["86400s", "86401s"]),
        (begin(retention(HOUR, MINUTE)), ["3600s", "60s"]),
        (begin(retention(HOUR, TEN_YEARS + SECOND)), ["316224000s", "316224001s"]),
        (begin(lease(31 * DAY)), ["30 days", "2678400s"]),
        (begin(Terms { reserve: Some(5000), ..Terms::default() }), ["5000", "4096"]),
    ];
    for (line, values) in said {
        assert!(values.iter().all(|value| line.contains(value)), "{line}");
    }
    let refused =
        |change: fn(Options) -> Options| Sim::with(change).try_open().unwrap_err().to_string();
    let line = refused(|options| options.retention(SECOND));
    assert!(line.contains("1s") && line.contains("60s"), "{line}");
    let line = refused(|options| options.execution_limit(SECOND));
    assert!(line.contains("1s") && line.contains("60s"), "{line}");
    let line = refused(|options| options.capacity(4096));
    assert!(line.contains("4096") && line.contains("1048576"), "{line}");
}
