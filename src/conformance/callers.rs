//! Those who ask for a key: begin, take over, wait, go away.

use super::{Subject, words::*};
use crate::{
    error::BeginError,
    record::{Reason, Retention},
    spi::{Abandon, ClaimOp, Found, IdempotencyStore, Terms},
    token::Token,
};
use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

pub(super) async fn begin<S: Subject>(bench: &Bench<'_, S>) {
    for by in WAYS {
        let (request, ticket) = bench.brought(by).await;
        let mut other = request.clone();
        other.fingerprint = bench.other_print();
        match (by.state(), bench.begin(&other).await) {
            (Is::Absent, Found::Granted(grant)) => {
                assert_eq!((grant.ticket.attempt, grant.after), (1, None), "{by:?}");
                assert!(grant.ticket.token > ticket.token, "{by:?}");
                assert!(matches!(bench.begin(&request).await, Found::Mismatch { scheme: 0 }));
                continue;
            }
            (_, Found::Mismatch { scheme: 0 }) => {}
            other => panic!("{by:?}: {other:?}"),
        }
        match (by.state(), bench.begin(&request).await) {
            (Is::InFlight, Found::InFlight(running)) => assert_eq!(running.token, ticket.token),
            (Is::Interrupted(reason), Found::Interrupted(stuck)) => {
                assert_eq!((stuck.token, stuck.reason), (ticket.token, reason), "{by:?}");
                let gone = matches!(reason, Reason::Dropped | Reason::Panicked);
                assert_eq!((stuck.attempts, stuck.holder_gone), (1, gone), "{by:?}");
                let left = (by == By::Failing).then_some(ANSWER);
                assert_eq!(stuck.answer.as_deref(), left, "{by:?}");
                assert_eq!(stuck.checkpoint, None, "{by:?}");
            }
            (Is::Completed, Found::Replay(record)) => {
                assert_eq!((record.token(), record.response()), (ticket.token, Some(RESPONSE)));
            }
            other => panic!("{by:?}: {other:?}"),
        }
    }
}

pub(super) async fn take_over<S: Subject>(bench: &Bench<'_, S>) {
    for by in WAYS {
        let (request, ticket) = bench.brought(by).await;
        let found = bench.take_over(&request, ticket.token).await.expect("take over");
        match (by.state(), found) {
            (Is::Absent, Found::Granted(grant)) => {
                assert_eq!((grant.ticket.attempt, grant.after), (1, None), "{by:?}");
            }
            (Is::InFlight, Found::InFlight(_)) | (Is::Completed, Found::Replay(_)) => {}
            (Is::Interrupted(reason), Found::Granted(grant)) => {
                assert!(grant.ticket.token > ticket.token, "{by:?}");
                assert_eq!((grant.ticket.attempt, grant.after), (2, Some(reason)), "{by:?}");
                assert_eq!(bench.is(&request).await, Is::InFlight, "{by:?}");
            }
            other => panic!("{by:?}: {other:?}"),
        }
    }
}

pub(super) async fn take_over_unseen<S: Subject>(bench: &Bench<'_, S>) {
    for by in WAYS {
        let (request, ticket) = bench.brought(by).await;
        let unseen = Token::new(ticket.token.get() + 1000).expect("a token");
        let found = bench.take_over(&request, unseen).await.expect("take over");
        match (by.state(), found) {
            (Is::Absent, Found::Granted(grant)) => assert_eq!(grant.ticket.attempt, 1, "{by:?}"),
            (Is::InFlight, Found::InFlight(_)) | (Is::Completed, Found::Replay(_)) => {}
            (Is::Interrupted(_), Found::Interrupted(stuck)) => {
                assert_eq!((stuck.token, stuck.attempts), (ticket.token, 1), "{by:?}");
            }
            other => panic!("{by:?}: {other:?}"),
        }
    }
}

pub(super) async fn take_over_mismatched<S: Subject>(bench: &Bench<'_, S>) {
    for by in WAYS.into_iter().filter(|by| by.state() != Is::Absent) {
        let (request, ticket) = bench.brought(by).await;
        let mut other = request.clone();
        other.fingerprint = bench.other_print();
        let found = bench.take_over(&other, ticket.token).await.expect("take over");
        assert!(matches!(found, Found::Mismatch { .. }), "{by:?}: {found:?}");
        assert_eq!(bench.is(&request).await, by.state(), "{by:?}");
    }
}

pub(super) async fn take_over_keeps<S: Subject>(bench: &Bench<'_, S>) {
    let request = bench.request();
    let first = bench.claim(&request).await.ticket;
    assert_eq!(bench.write(&first, ClaimOp::Checkpoint(b"half")).await, Ok(()));
    bench.abandon(&first, Abandon::Dropped).await;
    let seen = stuck(bench.begin(&request).await);
    assert_eq!(seen.checkpoint.as_deref(), Some(&b"half"[..]));
    let mut with_others = request.clone();
    with_others.terms = Terms {
        lease: Some(LEASE * 2),
        retention: Some(Retention::of(HOUR * 2)),
        reserve: Some(1),
        ..Terms::default()
    };
    let taken = bench.take_over(&with_others, seen.token).await.expect("take over");
    let taken = granted(taken);
    assert_eq!(taken.checkpoint.as_deref(), Some(&b"half"[..]));
    let ticket = &taken.ticket;
    assert_eq!((ticket.lease, ticket.reserve), (LEASE, 1024));
    assert_eq!(ticket.retention, Retention::of(HOUR));
    bench.advance(LEASE - MS).await;
    assert_eq!(bench.is(&request).await, Is::InFlight);
    bench.advance(MS).await;
    assert_eq!(bench.is(&request).await, Is::Interrupted(Reason::LeasePassed));
    assert_eq!(bench.write(ticket, complete(RESPONSE)).await, Ok(()));
}

pub(super) async fn one_of_many<S: Subject>(bench: &Bench<'_, S>) {
    let request = bench.request();
    let callers = (0..bench.facts.callers).map(|_| bench.begin(&request));
    let found = all(callers.collect()).await;
    let claims: Vec<_> = found.iter().filter(|f| matches!(f, Found::Granted(_))).collect();
    let in_flight = found.iter().filter(|f| matches!(f, Found::InFlight(_))).count();
    assert_eq!((claims.len(), in_flight), (1, bench.facts.callers - 1));
    let Found::Granted(grant) = claims[0] else { unreachable!("filtered") };
    assert_eq!(bench.write(&grant.ticket, complete(RESPONSE)).await, Ok(()));
    let callers = (0..bench.facts.callers).map(|_| bench.begin(&request));
    for found in all(callers.collect()).await {
        assert_eq!(replayed(found).response(), Some(RESPONSE));
    }
}

pub(super) async fn one_of_two_takers<S: Subject>(bench: &Bench<'_, S>) {
    let (request, first) = bench.brought(By::Drop).await;
    let taking = || bench.take_over(&request, first.token);
    let (a, b) = both(taking(), taking()).await;
    match (a.expect("take over"), b.expect("take over")) {
        (Found::Granted(grant), Found::InFlight(running))
        | (Found::InFlight(running), Found::Granted(grant)) => {
            assert_eq!(grant.ticket.token, running.token);
        }
        other => panic!("{other:?}"),
    }
}

pub(super) async fn attempts<S: Subject>(bench: &Bench<'_, S>) {
    let most = bench.facts.max_attempts;
    let (request, mut ticket) = bench.brought(By::Drop).await;
    for attempt in 2..=most {
        let taken = bench.take_over(&request, ticket.token).await.expect("take over");
        ticket = granted(taken).ticket;
        assert_eq!(ticket.attempt, attempt);
        bench.abandon(&ticket, Abandon::Dropped).await;
    }
    let refused = bench.take_over(&request, ticket.token).await;
    let exhausted = BeginError::AttemptsExhausted { attempts: most };
    assert_eq!(refused.expect_err("no more attempts"), exhausted);
    assert_eq!(stuck(bench.begin(&request).await).attempts, most);
}

pub(super) async fn waiting<S: Subject>(bench: &Bench<'_, S>) {
    let ends: [(ClaimOp<'_>, Is); 3] = [
        (complete(RESPONSE), Is::Completed),
        (ClaimOp::Release, Is::Absent),
        (ClaimOp::Fail(ANSWER), Is::Interrupted(Reason::Failed)),
    ];
    for (verb, state) in ends {
        let (request, ticket) = bench.brought(By::Begin).await;
        let waiting = bench.store().changed(&request, ticket.token, HOUR);
        let (changed, ended) = both(waiting, bench.write(&ticket, verb)).await;
        assert_eq!((changed, ended), (true, Ok(())), "{verb:?}");
        assert_eq!(bench.is(&request).await, state);
        // A change that has happened already is not waited for.
        assert!(bench.store().changed(&request, ticket.token, HOUR).await, "{verb:?}");
    }
    let (request, ticket) = bench.brought(By::Begin).await;
    let waiting = bench.store().changed(&request, ticket.token, HOUR);
    let (changed, ()) = both(waiting, bench.abandon(&ticket, Abandon::Dropped)).await;
    assert!(changed);
    // Another caller's attempt is not the one that was seen.
    let (request, second) = bench.second_attempt().await;
    let seen = Token::new(second.token.get() - 1).expect("a token");
    assert!(bench.store().changed(&request, seen, HOUR).await);
    // And it ends when its time is over, with the attempt still in flight.
    let short = Duration::from_millis(20);
    let waiting = bench.store().changed(&request, second.token, short);
    let (changed, ()) = both(waiting, bench.advance(short)).await;
    assert!(!changed);
    assert_eq!(bench.is(&request).await, Is::InFlight);
}

/// Polls at most this many times, and drops the future if it has not ended.
async fn polled<F: Future>(future: F, polls: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            // The last poll was in vain, and must cause no wake-up.
            Poll::Pending if left == 0 => {
                let mut unwoken = Context::from_waker(Waker::noop());
                match future.as_mut().poll(&mut unwoken) {
                    Poll::Ready(value) => Poll::Ready(Some(value)),
                    Poll::Pending => Poll::Ready(None),
                }
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

pub(super) async fn dropped<S: Subject>(bench: &Bench<'_, S>) {
    for polls in 0..8 {
        let request = bench.request();
        match polled(bench.store().begin(&request), polls).await {
            Some(found) => {
                let grant = granted(found.expect("begin"));
                assert_eq!(bench.write(&grant.ticket, ClaimOp::Release).await, Ok(()));
            }
            None => bench.subject.settle().await,
        }
        // It may still be on its way; then it is in flight until it has been undone.
        for _ in 0..1000 {
            if bench.is(&request).await == Is::Absent {
                break;
            }
            bench.subject.settle().await;
        }
        assert_eq!(bench.is(&request).await, Is::Absent, "dropped after {polls} polls");
    }
}
