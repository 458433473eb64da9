//! Those who hold a claim: each call in each state.

use super::{Subject, words::*};
use crate::{
    error::ClaimError,
    record::Reason,
    spi::{Abandon, ClaimOp, Completion, Ticket},
    token::Token,
};

/// Applies `verb` in each state, and compares what it answers and what the key is then.
async fn row<S: Subject>(
    bench: &Bench<'_, S>,
    op: ClaimOp<'_>,
    expected: impl Fn(By) -> (Answer, Is),
) {
    for by in WAYS {
        let (request, ticket) = bench.brought(by).await;
        let answer = bench.write(&ticket, op).await;
        assert_eq!((answer, bench.is(&request).await), expected(by), "{op:?} after {by:?}");
    }
}

/// Absent: fenced; completed: already completed; otherwise `undecided`.
fn unless_decided(by: By, undecided: (Answer, Is)) -> (Answer, Is) {
    match by.state() {
        Is::Absent => (Err(ClaimError::Fenced), Is::Absent),
        Is::Completed => (Err(ClaimError::AlreadyCompleted), Is::Completed),
        _ => undecided,
    }
}

pub(super) async fn complete<S: Subject>(bench: &Bench<'_, S>) {
    row(bench, super::words::complete(RESPONSE), |by| match by.state() {
        Is::Absent => (Err(ClaimError::Fenced), Is::Absent),
        _ => (Ok(()), Is::Completed),
    })
    .await;
    let (request, ticket) = bench.brought(By::Begin).await;
    for _ in 0..2 {
        assert_eq!(bench.write(&ticket, super::words::complete(b"")).await, Ok(()));
    }
    let record = replayed(bench.begin(&request).await);
    assert_eq!((record.response(), record.head()), (Some(&b""[..]), &b""[..]));
}

pub(super) async fn complete_differently<S: Subject>(bench: &Bench<'_, S>) {
    let (request, ticket) = bench.brought(By::Completing).await;
    let others = [
        Completion { response: Some(b"second"), ..Completion::default() },
        Completion { response: None, ..Completion::default() },
        Completion { response: Some(RESPONSE), head: b"h", retention: None },
    ];
    for other in others {
        let answer = bench.write(&ticket, ClaimOp::Complete(other)).await;
        assert_eq!(answer, Err(ClaimError::DifferentResponse), "{other:?}");
    }
    assert_eq!(replayed(bench.begin(&request).await).response(), Some(RESPONSE));
}

pub(super) async fn complete_without_response<S: Subject>(bench: &Bench<'_, S>) {
    let (request, ticket) = bench.brought(By::Begin).await;
    let short = ClaimOp::Complete(Completion { head: b"head", ..Completion::default() });
    for _ in 0..2 {
        assert_eq!(bench.write(&ticket, short).await, Ok(()));
    }
    let record = replayed(bench.begin(&request).await);
    assert_eq!((record.response(), record.head()), (None, &b"head"[..]));
    let empty = Completion { head: b"head", response: Some(b""), retention: None };
    let answer = bench.write(&ticket, ClaimOp::Complete(empty)).await;
    assert_eq!(answer, Err(ClaimError::DifferentResponse));
}

pub(super) async fn fail<S: Subject>(bench: &Bench<'_, S>) {
    let failed = (Ok(()), Is::Interrupted(Reason::Failed));
    row(bench, ClaimOp::Fail(ANSWER), |by| unless_decided(by, failed.clone())).await;
}

pub(super) async fn fail_keeps_answer<S: Subject>(bench: &Bench<'_, S>) {
    let (request, ticket) = bench.brought(By::Failing).await;
    assert_eq!(bench.write(&ticket, ClaimOp::Fail(ANSWER)).await, Ok(()));
    let other = bench.write(&ticket, ClaimOp::Fail(b"502")).await;
    assert_eq!(other, Err(ClaimError::DifferentResponse));
    // The holder's handle is dropped: no holder is left that could finish.
    assert!(!stuck(bench.begin(&request).await).holder_gone);
    bench.abandon(&ticket, Abandon::Dropped).await;
    let seen = stuck(bench.begin(&request).await);
    assert_eq!((seen.reason, seen.holder_gone), (Reason::Failed, true));
    assert_eq!(seen.answer.as_deref(), Some(ANSWER));
    // A renewal withdraws it.
    let (request, ticket) = bench.brought(By::Failing).await;
    assert_eq!(bench.write(&ticket, ClaimOp::Renew).await, Ok(()));
    assert_eq!(bench.is(&request).await, Is::InFlight);
    assert_eq!(bench.write(&ticket, ClaimOp::Fail(b"")).await, Ok(()));
    assert_eq!(stuck(bench.begin(&request).await).answer.as_deref(), Some(&b""[..]));
    // A takeover starts without it.
    let seen = stuck(bench.begin(&request).await);
    let taken = granted(bench.take_over(&request, seen.token).await.expect("take over"));
    assert_eq!(taken.after, Some(Reason::Failed));
    bench.abandon(&taken.ticket, Abandon::Dropped).await;
    assert_eq!(stuck(bench.begin(&request).await).answer, None);
}

pub(super) async fn release<S: Subject>(bench: &Bench<'_, S>) {
    row(bench, ClaimOp::Release, |by| unless_decided(by, (Ok(()), Is::Absent))).await;
}

pub(super) async fn release_keeps_history<S: Subject>(bench: &Bench<'_, S>) {
    let given_back = Is::Interrupted(Reason::GivenBack);
    // Charged and lapsed, taken over, released: no caller gets a fresh claim.
    let (request, second) = bench.second_attempt().await;
    assert_eq!(bench.write(&second, ClaimOp::Release).await, Ok(()));
    assert_eq!(bench.is(&request).await, given_back);
    let seen = stuck(bench.begin(&request).await);
    assert_eq!((seen.token, seen.attempts, seen.holder_gone), (second.token, 1, true));
    let third = granted(bench.take_over(&request, seen.token).await.expect("take over"));
    assert_eq!((third.ticket.attempt, third.after), (2, Some(Reason::GivenBack)));
    // A checkpoint is history too.
    let (request, first) = bench.brought(By::Begin).await;
    assert_eq!(bench.write(&first, ClaimOp::Checkpoint(b"charged")).await, Ok(()));
    assert_eq!(bench.write(&first, ClaimOp::Release).await, Ok(()));
    assert_eq!(bench.is(&request).await, given_back);
    let seen = stuck(bench.begin(&request).await);
    assert_eq!(seen.checkpoint.as_deref(), Some(&b"charged"[..]));
}

/// However often a settle learns nothing about an attempt, the next takeover is the second one.
pub(super) async fn undone_takeovers<S: Subject>(bench: &Bench<'_, S>) {
    let (request, first) = bench.brought(By::Begin).await;
    assert_eq!(bench.write(&first, ClaimOp::Checkpoint(b"half")).await, Ok(()));
    assert_eq!(bench.write(&first, ClaimOp::Fail(ANSWER)).await, Ok(()));
    bench.abandon(&first, Abandon::Dropped).await;
    for _ in 0..bench.facts.max_attempts + 3 {
        let seen = stuck(bench.begin(&request).await);
        assert_eq!((seen.reason, seen.attempts, seen.holder_gone), (Reason::Failed, 1, true));
        assert_eq!(seen.answer.as_deref(), Some(ANSWER));
        assert_eq!(seen.checkpoint.as_deref(), Some(&b"half"[..]));
        let taken = granted(bench.take_over(&request, seen.token).await.expect("take over"));
        assert_eq!((taken.ticket.attempt, taken.after), (2, Some(Reason::Failed)));
        assert_eq!(bench.write(&taken.ticket, ClaimOp::Undo).await, Ok(()));
    }
    let seen = stuck(bench.begin(&request).await);
    assert!(!seen.settle_after.is_zero());
    // Once more, by who has done it already, changes nothing.
    let taken = granted(bench.take_over(&request, seen.token).await.expect("take over")).ticket;
    for _ in 0..2 {
        assert_eq!(bench.write(&taken, ClaimOp::Undo).await, Ok(()));
        let seen = stuck(bench.begin(&request).await);
        assert_eq!((seen.reason, seen.attempts), (Reason::Failed, 1));
    }
    // Its own failure counts, and is what is left.
    let taken = granted(bench.take_over(&request, taken.token).await.expect("take over")).ticket;
    assert_eq!(bench.write(&taken, ClaimOp::Fail(b"502")).await, Ok(()));
    assert_eq!(bench.write(&taken, ClaimOp::Undo).await, Ok(()));
    let seen = stuck(bench.begin(&request).await);
    assert_eq!((seen.reason, seen.attempts), (Reason::GivenBack, 2));
    assert_eq!(seen.answer.as_deref(), Some(&b"502"[..]));
    // A first claim is released.
    let (request, first) = bench.brought(By::Begin).await;
    assert_eq!(bench.write(&first, ClaimOp::Undo).await, Ok(()));
    assert_eq!(bench.is(&request).await, Is::Absent);
}

pub(super) async fn nothing_happened<S: Subject>(bench: &Bench<'_, S>) {
    let (request, first) = bench.brought(By::Begin).await;
    assert_eq!(bench.write(&first, ClaimOp::Checkpoint(b"half")).await, Ok(()));
    bench.abandon(&first, Abandon::Dropped).await;
    let taken = granted(bench.take_over(&request, first.token).await.expect("take over"));
    assert_eq!(bench.write(&taken.ticket, ClaimOp::NothingHappened).await, Ok(()));
    assert_eq!(bench.is(&request).await, Is::InFlight);
    assert_eq!(bench.write(&taken.ticket, ClaimOp::Release).await, Ok(()));
    assert_eq!(bench.is(&request).await, Is::Absent);
    // An attempt that is interrupted after it is the first one.
    let (request, second) = bench.second_attempt().await;
    assert_eq!(bench.write(&second, ClaimOp::NothingHappened).await, Ok(()));
    bench.abandon(&second, Abandon::Dropped).await;
    let seen = stuck(bench.begin(&request).await);
    assert_eq!((seen.attempts, seen.checkpoint), (1, None));
}

pub(super) async fn renew_and_checkpoint<S: Subject>(bench: &Bench<'_, S>) {
    let runs = (Ok(()), Is::InFlight);
    for op in [ClaimOp::Renew, ClaimOp::Checkpoint(b"half")] {
        row(bench, op, |by| unless_decided(by, runs.clone())).await;
    }
    // The last checkpoint is the one that counts.
    let (request, ticket) = bench.brought(By::Begin).await;
    for checkpoint in [&b"one"[..], b"", b"two"] {
        assert_eq!(bench.write(&ticket, ClaimOp::Checkpoint(checkpoint)).await, Ok(()));
    }
    assert_eq!(bench.write(&ticket, ClaimOp::Renew).await, Ok(()));
    bench.abandon(&ticket, Abandon::Dropped).await;
    let seen = stuck(bench.begin(&request).await);
    assert_eq!(seen.checkpoint.as_deref(), Some(&b"two"[..]));
}

pub(super) async fn ensure_durable<S: Subject>(bench: &Bench<'_, S>) {
    row(bench, ClaimOp::EnsureDurable, |by| unless_decided(by, (Ok(()), by.state()))).await;
}

fn ops<'a>() -> [ClaimOp<'a>; 8] {
    [
        super::words::complete(RESPONSE),
        ClaimOp::Fail(ANSWER),
        ClaimOp::Release,
        ClaimOp::Undo,
        ClaimOp::NothingHappened,
        ClaimOp::Renew,
        ClaimOp::Checkpoint(b"half"),
        ClaimOp::EnsureDurable,
    ]
}

pub(super) async fn another_token<S: Subject>(bench: &Bench<'_, S>) {
    for by in WAYS {
        let (request, ticket) = bench.brought(by).await;
        let token = Token::new(ticket.token.get() + 1000).expect("a token");
        let ticket = Ticket { token, ..ticket };
        for op in ops() {
            let answer = bench.write(&ticket, op).await;
            assert_eq!(answer, Err(ClaimError::Fenced), "{op:?} after {by:?}");
        }
        bench.abandon(&ticket, Abandon::Dropped).await;
        bench.abandon(&ticket, Abandon::Undelivered).await;
        assert_eq!(bench.is(&request).await, by.state(), "{by:?}");
    }
}

pub(super) async fn late<S: Subject>(bench: &Bench<'_, S>) {
    let (request, first) = bench.brought(By::LeasePassing).await;
    let taken = granted(bench.take_over(&request, first.token).await.expect("take over"));
    for op in ops() {
        assert_eq!(bench.write(&first, op).await, Err(ClaimError::Fenced), "{op:?}");
    }
    bench.abandon(&first, Abandon::Dropped).await;
    assert_eq!(bench.is(&request).await, Is::InFlight);
    let second = super::words::complete(b"second");
    assert_eq!(bench.write(&taken.ticket, second).await, Ok(()));
    for op in ops() {
        assert_eq!(bench.write(&first, op).await, Err(ClaimError::Fenced), "{op:?}");
    }
    assert_eq!(replayed(bench.begin(&request).await).response(), Some(&b"second"[..]));
}

pub(super) async fn abandon<S: Subject>(bench: &Bench<'_, S>) {
    for (how, reason) in
        [(Abandon::Dropped, Reason::Dropped), (Abandon::Panicked, Reason::Panicked)]
    {
        for by in WAYS {
            let (request, ticket) = bench.brought(by).await;
            bench.abandon(&ticket, how).await;
            let expected = match by {
                By::Begin => Is::Interrupted(reason),
                // The earlier reason stays.
                _ => by.state(),
            };
            assert_eq!(bench.is(&request).await, expected, "{how:?} after {by:?}");
            if let Is::Interrupted(_) = expected {
                assert!(stuck(bench.begin(&request).await).holder_gone, "{how:?} after {by:?}");
            }
        }
    }
}

pub(super) async fn abandon_again<S: Subject>(bench: &Bench<'_, S>) {
    let (request, ticket) = bench.brought(By::Drop).await;
    bench.abandon(&ticket, Abandon::Panicked).await;
    assert_eq!(bench.is(&request).await, Is::Interrupted(Reason::Dropped));
    // Its token is still the last one: a holder that kept it can finish.
    assert_eq!(bench.write(&ticket, super::words::complete(RESPONSE)).await, Ok(()));
    bench.abandon(&ticket, Abandon::Dropped).await;
    assert_eq!(bench.is(&request).await, Is::Completed);
}

pub(super) async fn undelivered<S: Subject>(bench: &Bench<'_, S>) {
    let (request, ticket) = bench.brought(By::Begin).await;
    bench.abandon(&ticket, Abandon::Undelivered).await;
    assert_eq!(bench.is(&request).await, Is::Absent);
    let (request, second) = bench.second_attempt().await;
    bench.abandon(&second, Abandon::Undelivered).await;
    assert_eq!(bench.is(&request).await, Is::Interrupted(Reason::Dropped));
    assert_eq!(stuck(bench.begin(&request).await).attempts, 1);
    let (request, ticket) = bench.brought(By::Completing).await;
    bench.abandon(&ticket, Abandon::Undelivered).await;
    assert_eq!(bench.is(&request).await, Is::Completed);
}

pub(super) async fn tokens<S: Subject>(bench: &Bench<'_, S>) {
    let request = bench.request();
    let mut last = 0;
    for round in 0..4 {
        let ticket = bench.claim(&request).await.ticket;
        assert!(ticket.token.get() > last && ticket.token.get() < 1 << 53);
        last = ticket.token.get();
        match round % 2 {
            0 => assert_eq!(bench.write(&ticket, ClaimOp::Release).await, Ok(())),
            _ => {
                let done = bench.write(&ticket, super::words::complete(RESPONSE)).await;
                assert_eq!(done, Ok(()));
                bench.advance(HOUR).await;
            }
        }
    }
}
