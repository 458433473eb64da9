//! An operator decides, under a new token.

use super::{Subject, words::*};
use crate::{
    engine::resolve::{Resolution, ResolveOptions},
    error::{ClaimError, StoreError},
    spi::{ClaimOp, Completion},
};

type Decided = Result<(), StoreError>;

const BY_HAND: Completion<'static> =
    Completion { head: b"", response: Some(b"by hand"), retention: None };

/// Whether the backend can be asked to.
pub(super) async fn can<S: Subject>(bench: &Bench<'_, S>) -> bool {
    let key = bench.key();
    bench.subject.resolve(key.as_ref(), Resolution::Free, ResolveOptions::new()).await.is_some()
}

async fn resolve<S: Subject>(
    bench: &Bench<'_, S>,
    request: &crate::spi::Request,
    resolution: Resolution<'_>,
    force: bool,
) -> Decided {
    let resolved = bench
        .subject
        .resolve(request.key.as_ref(), resolution, ResolveOptions::new().force(force))
        .await;
    resolved.expect("it could before")
}

fn needs_force(answer: &Decided) -> bool {
    matches!(answer, Err(StoreError::NeedsForce { .. }))
}

fn not_applicable(answer: &Decided) -> bool {
    matches!(answer, Err(StoreError::NotApplicable { .. }))
}

pub(super) async fn complete<S: Subject>(bench: &Bench<'_, S>) {
    for by in WAYS.into_iter().filter(|by| by.is_undecided()) {
        let (request, ticket) = bench.brought(by).await;
        let by_hand = Resolution::Complete { fingerprint: None, completion: BY_HAND };
        if by == By::Begin {
            assert!(needs_force(&resolve(bench, &request, by_hand, false).await));
        }
        assert_eq!(resolve(bench, &request, by_hand, true).await, Ok(()), "{by:?}");
        let record = replayed(bench.begin(&request).await);
        assert_eq!(record.response(), Some(&b"by hand"[..]), "{by:?}");
        assert!(record.token() > ticket.token, "{by:?}");
        let late = bench.write(&ticket, super::words::complete(RESPONSE)).await;
        assert_eq!(late, Err(ClaimError::Fenced), "{by:?}");
        let again = resolve(bench, &request, by_hand, true).await;
        assert_eq!(again, Err(StoreError::AlreadyCompleted), "{by:?}");
        bench.advance(HOUR).await;
        assert_eq!(bench.is(&request).await, Is::Absent, "{by:?}");
    }
}

pub(super) async fn import<S: Subject>(bench: &Bench<'_, S>) {
    for by in [None, Some(By::Release), Some(By::Expiring)] {
        let request = match by {
            None => bench.request(),
            Some(by) => bench.brought(by).await.0,
        };
        let nameless = Resolution::Complete { fingerprint: None, completion: BY_HAND };
        assert!(not_applicable(&resolve(bench, &request, nameless, true).await), "{by:?}");
        let fingerprint = Some(request.fingerprint);
        let retention = Some(crate::Retention::of(HOUR));
        let completion = Completion { retention, ..BY_HAND };
        let named = Resolution::Complete { fingerprint, completion };
        assert_eq!(resolve(bench, &request, named, false).await, Ok(()), "{by:?}");
        let record = replayed(bench.begin(&request).await);
        assert_eq!(record.response(), Some(&b"by hand"[..]), "{by:?}");
        bench.advance(HOUR).await;
        assert_eq!(bench.is(&request).await, Is::Absent, "{by:?}");
    }
}

pub(super) async fn free<S: Subject>(bench: &Bench<'_, S>) {
    for by in WAYS {
        let (request, ticket) = bench.brought(by).await;
        match by.state() {
            Is::Absent | Is::Completed => {
                let answer = resolve(bench, &request, Resolution::Free, true).await;
                assert!(not_applicable(&answer), "{by:?}: {answer:?}");
                continue;
            }
            Is::InFlight => {
                assert!(needs_force(&resolve(bench, &request, Resolution::Free, false).await));
            }
            Is::Interrupted(_) => {}
        }
        let force = by == By::Begin;
        assert_eq!(resolve(bench, &request, Resolution::Free, force).await, Ok(()), "{by:?}");
        let late = bench.write(&ticket, ClaimOp::Renew).await;
        assert_eq!(late, Err(ClaimError::Fenced), "{by:?}");
        let fresh = bench.claim(&request).await;
        assert_eq!((fresh.ticket.attempt, fresh.after), (1, None), "{by:?}");
        assert!(fresh.ticket.token > ticket.token, "{by:?}");
    }
}

pub(super) async fn forget<S: Subject>(bench: &Bench<'_, S>) {
    for by in WAYS {
        let (request, ticket) = bench.brought(by).await;
        if by.state() == Is::Absent {
            let answer = resolve(bench, &request, Resolution::Forget, true).await;
            assert!(not_applicable(&answer), "{by:?}: {answer:?}");
            continue;
        }
        let force = matches!(by.state(), Is::InFlight | Is::Completed);
        if force {
            assert!(needs_force(&resolve(bench, &request, Resolution::Forget, false).await));
        }
        assert_eq!(resolve(bench, &request, Resolution::Forget, force).await, Ok(()), "{by:?}");
        let late = bench.write(&ticket, super::words::complete(RESPONSE)).await;
        assert_eq!(late, Err(ClaimError::Fenced), "{by:?}");
        assert_eq!(bench.is(&request).await, Is::Absent, "{by:?}");
    }
}

pub(super) async fn replace<S: Subject>(bench: &Bench<'_, S>) {
    const RIGHT: Resolution<'static> =
        Resolution::Replace { head: b"head", response: Some(b"the right one") };
    for by in WAYS {
        let (request, ticket) = bench.brought(by).await;
        if by.state() != Is::Completed {
            let answer = resolve(bench, &request, RIGHT, true).await;
            assert!(not_applicable(&answer), "{by:?}: {answer:?}");
            continue;
        }
        let before = replayed(bench.begin(&request).await);
        assert_eq!(resolve(bench, &request, RIGHT, false).await, Ok(()), "{by:?}");
        let record = replayed(bench.begin(&request).await);
        assert_eq!(record.response(), Some(&b"the right one"[..]), "{by:?}");
        assert_eq!(record.head(), b"head", "{by:?}");
        assert!(record.token() > before.token(), "{by:?}");
        let times = |record: &crate::Record| (record.completed_at(), record.expires_at());
        assert_eq!(times(&record), times(&before), "{by:?}");
        let late = bench.write(&ticket, super::words::complete(RESPONSE)).await;
        assert_eq!(late, Err(ClaimError::Fenced), "{by:?}");
        let mut other = request.clone();
        other.fingerprint = crate::Fingerprint::of(["another request"]);
        let mismatch = bench.begin(&other).await;
        assert!(matches!(mismatch, crate::spi::Found::Mismatch { .. }), "{by:?}: {mismatch:?}");
        bench.advance(HOUR).await;
        assert_eq!(bench.is(&request).await, Is::Absent, "{by:?}");
    }
}
