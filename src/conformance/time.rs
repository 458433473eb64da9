//! Leases and retentions pass by the store's clock, at their first instant and not before.

use super::{Subject, words::*};
use crate::{
    record::{Reason, Retention},
    spi::{Abandon, ClaimOp, Completion, Found},
};
use std::time::Duration;

pub(super) async fn lease<S: Subject>(bench: &Bench<'_, S>) {
    let (request, ticket) = bench.brought(By::Begin).await;
    bench.advance(LEASE - MS).await;
    let Found::InFlight(running) = bench.begin(&request).await else { panic!("not in flight") };
    assert_eq!(running.running_for, LEASE - MS);
    bench.advance(MS).await;
    let seen = stuck(bench.begin(&request).await);
    assert_eq!((seen.reason, seen.holder_gone), (Reason::LeasePassed, false));
    // The holder finishes late, and the key has not been taken over.
    assert_eq!(bench.write(&ticket, complete(RESPONSE)).await, Ok(()));
    assert_eq!(bench.is(&request).await, Is::Completed);
}

pub(super) async fn renewals<S: Subject>(bench: &Bench<'_, S>) {
    let (request, ticket) = bench.brought(By::Begin).await;
    for verb in [ClaimOp::Renew, ClaimOp::Checkpoint(b"on"), ClaimOp::Renew] {
        bench.advance(LEASE - MS).await;
        assert_eq!(bench.is(&request).await, Is::InFlight);
        assert_eq!(bench.write(&ticket, verb).await, Ok(()));
    }
    bench.advance(LEASE - MS).await;
    assert_eq!(bench.is(&request).await, Is::InFlight);
    bench.advance(MS).await;
    assert_eq!(bench.is(&request).await, Is::Interrupted(Reason::LeasePassed));
}

pub(super) async fn renewal_of_longer<S: Subject>(bench: &Bench<'_, S>) {
    let (request, ticket) = bench.brought(By::Begin).await;
    assert_eq!(bench.write(&ticket, ClaimOp::Renew).await, Ok(()));
    let shorter = crate::spi::Ticket { lease: LEASE / 2, ..ticket };
    assert_eq!(bench.write(&shorter, ClaimOp::Renew).await, Ok(()));
    bench.advance(LEASE - MS).await;
    assert_eq!(bench.is(&request).await, Is::InFlight);
}

pub(super) async fn retention<S: Subject>(bench: &Bench<'_, S>) {
    let (request, ticket) = bench.brought(By::Begin).await;
    // Counted from completion, not from the claim.
    bench.advance(LEASE / 2).await;
    assert_eq!(bench.write(&ticket, complete(RESPONSE)).await, Ok(()));
    bench.advance(HOUR - MS).await;
    let record = replayed(bench.begin(&request).await);
    assert_eq!(record.expires_at() - record.completed_at(), HOUR.as_millis() as u64);
    bench.advance(MS).await;
    let again = bench.claim(&request).await;
    assert_eq!((again.ticket.attempt, again.after, again.checkpoint), (1, None, None));
    assert!(again.ticket.token > ticket.token);
}

pub(super) async fn replay_extends_nothing<S: Subject>(bench: &Bench<'_, S>) {
    let (request, _) = bench.brought(By::Completing).await;
    bench.advance(HOUR / 2).await;
    let first = replayed(bench.begin(&request).await).expires_at();
    bench.advance(HOUR / 2 - MS).await;
    assert_eq!(replayed(bench.begin(&request).await).expires_at(), first);
    bench.advance(MS).await;
    assert_eq!(bench.is(&request).await, Is::Absent);
}

pub(super) async fn two_windows<S: Subject>(bench: &Bench<'_, S>) {
    let mut request = bench.request();
    request.terms.retention = Some(Retention { replay_for: HOUR, remember_for: HOUR * 3 });
    let ticket = bench.claim(&request).await.ticket;
    let whole = Completion { head: b"head", response: Some(RESPONSE), retention: None };
    assert_eq!(bench.write(&ticket, ClaimOp::Complete(whole)).await, Ok(()));
    bench.advance(HOUR - MS).await;
    assert_eq!(replayed(bench.begin(&request).await).response(), Some(RESPONSE));
    bench.advance(MS).await;
    let record = replayed(bench.begin(&request).await);
    assert_eq!((record.response(), record.head()), (None, &b"head"[..]));
    let mut other = request.clone();
    other.fingerprint = bench.other_print();
    assert!(matches!(bench.begin(&other).await, Found::Mismatch { .. }));
    bench.advance(HOUR * 2 - MS).await;
    assert_eq!(bench.is(&request).await, Is::Completed);
    bench.advance(MS).await;
    assert_eq!(bench.is(&request).await, Is::Absent);
}

pub(super) async fn own_retention<S: Subject>(bench: &Bench<'_, S>) {
    let longer = Retention { replay_for: HOUR * 2, remember_for: HOUR * 4 };
    for retention in [Retention::of(Duration::from_secs(1)), longer] {
        let (request, ticket) = bench.brought(By::Begin).await;
        let done = Completion { response: Some(RESPONSE), retention: Some(retention), head: b"" };
        assert_eq!(bench.write(&ticket, ClaimOp::Complete(done)).await, Ok(()));
        bench.advance(retention.replay_for - MS).await;
        assert_eq!(replayed(bench.begin(&request).await).response(), Some(RESPONSE));
        bench.advance(retention.remember_for - retention.replay_for).await;
        assert_eq!(bench.is(&request).await, Is::Completed);
        bench.advance(MS).await;
        assert_eq!(bench.is(&request).await, Is::Absent);
    }
}

pub(super) async fn interrupted<S: Subject>(bench: &Bench<'_, S>) {
    let keep = bench.facts.interrupted_retention;
    let (request, ticket) = bench.brought(By::Drop).await;
    bench.advance(keep - MS).await;
    assert_eq!(bench.is(&request).await, Is::Interrupted(Reason::Dropped));
    bench.advance(MS).await;
    let again = bench.claim(&request).await;
    assert_eq!((again.ticket.attempt, again.after), (1, None));
    assert!(again.ticket.token > ticket.token);
    // A failure is kept from the failure on.
    let (request, ticket) = bench.brought(By::Begin).await;
    bench.advance(LEASE / 2).await;
    assert_eq!(bench.write(&ticket, ClaimOp::Fail(ANSWER)).await, Ok(()));
    bench.abandon(&ticket, Abandon::Dropped).await;
    bench.advance(keep - MS).await;
    assert_eq!(stuck(bench.begin(&request).await).answer.as_deref(), Some(ANSWER));
    bench.advance(MS).await;
    assert_eq!(bench.is(&request).await, Is::Absent);
}

pub(super) async fn living_holder<S: Subject>(bench: &Bench<'_, S>) {
    let keep = bench.facts.interrupted_retention;
    let (request, ticket) = bench.brought(By::Begin).await;
    bench.advance(LEASE + keep - MS).await;
    assert_eq!(bench.is(&request).await, Is::Interrupted(Reason::LeasePassed));
    bench.advance(MS).await;
    if bench.facts.knows_handles {
        assert_eq!(bench.is(&request).await, Is::Interrupted(Reason::LeasePassed));
        bench.abandon(&ticket, Abandon::Dropped).await;
    }
    assert_eq!(bench.is(&request).await, Is::Absent);
}
