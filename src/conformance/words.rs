//! Words to ask a backend with.

use super::{Facts, Subject};
use crate::{
    error::{BeginError, ClaimError},
    fingerprint::Fingerprint,
    key::{KeyRef, OwnedKey, Scope},
    record::{Reason, Retention},
    spi::*,
    token::Token,
};
use std::{cell::Cell, future::Future, pin::Pin, task::Poll, time::Duration};

pub(super) const LEASE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const MS: Duration = Duration::from_millis(1);
/// The answer that a failed holder leaves.
pub(super) const ANSWER: &[u8] = b"500";
/// The response of a completed key.
pub(super) const RESPONSE: &[u8] = b"first";

/// Names the case that panics.
pub(super) struct Named(pub &'static str);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("this backend does not conform: {}", self.0);
    }
}

/// The state of a key, as a caller finds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Is {
    Absent,
    InFlight,
    Interrupted(Reason),
    Completed,
}

/// Ways to bring a key into a state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum By {
    Release,
    Begin,
    Drop,
    Panic,
    LeasePassing,
    Failing,
    Completing,
    Expiring,
}

/// Each of them.
pub(super) const WAYS: [By; 8] = [
    By::Release,
    By::Begin,
    By::Drop,
    By::Panic,
    By::LeasePassing,
    By::Failing,
    By::Completing,
    By::Expiring,
];

impl By {
    /// The state that it leads to.
    pub fn state(self) -> Is {
        match self {
            By::Release | By::Expiring => Is::Absent,
            By::Begin => Is::InFlight,
            By::Drop => Is::Interrupted(Reason::Dropped),
            By::Panic => Is::Interrupted(Reason::Panicked),
            By::LeasePassing => Is::Interrupted(Reason::LeasePassed),
            By::Failing => Is::Interrupted(Reason::Failed),
            By::Completing => Is::Completed,
        }
    }

    pub fn is_undecided(self) -> bool {
        matches!(self.state(), Is::InFlight | Is::Interrupted(_))
    }
}

pub(super) struct Bench<'a, S: Subject> {
    pub subject: &'a S,
    pub facts: Facts,
    scope: Scope,
    made: Cell<u32>,
}

impl<'a, S: Subject> Bench<'a, S> {
    pub fn new(subject: &'a S) -> Self {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the system gives random bytes");
        let scope = Scope::of([&b"conformance"[..], &random]);
        Bench { subject, facts: subject.facts(), scope, made: Cell::new(0) }
    }

    pub fn store(&self) -> &S::Store {
        self.subject.store()
    }

    pub fn print(&self) -> Fingerprint {
        Fingerprint::of(["POST", "/orders", "book"])
    }

    pub fn other_print(&self) -> Fingerprint {
        Fingerprint::of(["POST", "/orders", "pen"])
    }

    /// A key that was never used.
    pub fn key(&self) -> OwnedKey {
        self.made.set(self.made.get() + 1);
        let name = format!("key {}", self.made.get());
        KeyRef::new(&self.scope, &name).expect("short").owned()
    }

    /// A request for a key that was never used.
    pub fn request(&self) -> Request {
        self.request_for(self.key())
    }

    pub fn request_for(&self, key: OwnedKey) -> Request {
        let terms = Terms {
            lease: Some(LEASE),
            retention: Some(Retention::of(HOUR)),
            reserve: Some(1024),
            ..Terms::default()
        };
        Request { key, fingerprint: self.print(), terms }
    }

    pub async fn begin(&self, request: &Request) -> Found {
        self.store().begin(request).await.expect("begin")
    }

    pub async fn take_over(&self, request: &Request, seen: Token) -> Result<Found, BeginError> {
        self.store().take_over(request, seen).await
    }

    pub async fn write(&self, ticket: &Ticket, op: ClaimOp<'_>) -> Result<(), ClaimError> {
        self.store().write(ticket, op).await
    }

    pub async fn abandon(&self, ticket: &Ticket, how: Abandon) {
        self.store().abandon(ticket, how);
        self.subject.settle().await;
    }

    pub async fn advance(&self, by: Duration) {
        self.subject.advance(by).await;
    }

    /// The key must be free.
    pub async fn claim(&self, request: &Request) -> Grant {
        granted(self.begin(request).await)
    }

    /// The key's state for its own request. An absent key stays absent.
    pub async fn is(&self, request: &Request) -> Is {
        match self.begin(request).await {
            Found::Granted(grant) => {
                assert_eq!(self.write(&grant.ticket, ClaimOp::Release).await, Ok(()));
                Is::Absent
            }
            Found::InFlight(_) => Is::InFlight,
            Found::Interrupted(stuck) => Is::Interrupted(stuck.reason),
            Found::Replay(_) => Is::Completed,
            Found::Mismatch { .. } => panic!("a mismatch with the same fingerprint"),
        }
    }

    /// A key in a state, and the ticket of the attempt that brought it there.
    pub async fn brought(&self, by: By) -> (Request, Ticket) {
        let request = self.request();
        let ticket = self.claim(&request).await.ticket;
        match by {
            By::Begin => {}
            By::Release => assert_eq!(self.write(&ticket, ClaimOp::Release).await, Ok(())),
            By::Drop => self.abandon(&ticket, Abandon::Dropped).await,
            By::Panic => self.abandon(&ticket, Abandon::Panicked).await,
            By::LeasePassing => self.advance(LEASE).await,
            By::Failing => assert_eq!(self.write(&ticket, ClaimOp::Fail(ANSWER)).await, Ok(())),
            By::Completing | By::Expiring => {
                assert_eq!(self.write(&ticket, complete(RESPONSE)).await, Ok(()));
            }
        }
        if by == By::Expiring {
            self.advance(HOUR).await;
        }
        (request, ticket)
    }

    /// A key that was taken over, and the ticket of its second attempt.
    pub async fn second_attempt(&self) -> (Request, Ticket) {
        let (request, first) = self.brought(By::Drop).await;
        let grant = granted(self.take_over(&request, first.token).await.expect("take over"));
        (request, grant.ticket)
    }
}

#[track_caller]
pub(super) fn granted(found: Found) -> Grant {
    match found {
        Found::Granted(grant) => grant,
        other => panic!("no claim, but {other:?}"),
    }
}

#[track_caller]
pub(super) fn stuck(found: Found) -> Interruption {
    match found {
        Found::Interrupted(stuck) => stuck,
        other => panic!("not interrupted, but {other:?}"),
    }
}

#[track_caller]
pub(super) fn replayed(found: Found) -> crate::Record {
    match found {
        Found::Replay(record) => record,
        other => panic!("no record, but {other:?}"),
    }
}

pub(super) fn complete(response: &[u8]) -> ClaimOp<'_> {
    ClaimOp::Complete(Completion { response: Some(response), ..Completion::default() })
}

/// The required result of a holder's call in one state.
pub(super) type Answer = Result<(), ClaimError>;

/// Polls both until both have ended.
pub(super) async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (Box::pin(a), Box::pin(b));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(move |context| {
        poll_once(&mut a, &mut first, context);
        poll_once(&mut b, &mut second, context);
        match (first.is_some(), second.is_some()) {
            (true, true) => {
                Poll::Ready((first.take().expect("seen"), second.take().expect("seen")))
            }
            _ => Poll::Pending,
        }
    })
    .await
}

/// Polls all until all have ended.
pub(super) async fn all<T, F: Future<Output = T>>(futures: Vec<F>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(move |context| {
        waiting.iter_mut().for_each(|(future, value)| poll_once(future, value, context));
        match waiting.iter().all(|(_, value)| value.is_some()) {
            true => Poll::Ready(waiting.iter_mut().filter_map(|(_, value)| value.take()).collect()),
            false => Poll::Pending,
        }
    })
    .await
}

fn poll_once<F: Future>(
    future: &mut Pin<Box<F>>,
    value: &mut Option<F::Output>,
    context: &mut std::task::Context<'_>,
) {
    if value.is_none()
        && let Poll::Ready(ready) = future.as_mut().poll(context)
    {
        *value = Some(ready);
    }
}
