//! A whole request in one call: claim or wait, replay or settle, execute once, store the answer.

use crate::{
    engine::entries::State,
    error::{BeginError, ClaimError},
    fingerprint::Fingerprint,
    key::KeyRef,
    record::Record,
    spi::{IdempotencyStore, Request, Terms},
    store::Store,
    store::async_store::AsyncStore,
    store::claim::{Begin, Claim, Interrupted, Pending, held_anyway},
    token::Token,
};
use std::{fmt, time::Duration};

/// The answer of a settle function: did an earlier attempt take effect?
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// An earlier attempt took effect, and this is its answer: it is stored and replayed.
    Happened(Vec<u8>),
    /// No earlier attempt took effect, and none can any more: the work is executed.
    NothingHappened,
    /// It isn't known: the key stays interrupted as it was. That uses up no attempt; it is tried
    /// again after [`Interrupted::settle_after`].
    Unknown,
}

/// The error of work that has no answer to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkError<E> {
    /// The work did nothing: the attempt is released.
    NothingDone(E),
    /// The work may have had an effect: the key is interrupted. `?` converts errors to this.
    Unknown(E),
}

impl<E> From<E> for WorkError<E> {
    fn from(error: E) -> Self {
        WorkError::Unknown(error)
    }
}

/// The answer to a request that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The work was executed now, and this is its answer, which is stored.
    Executed(Vec<u8>),
    /// The request was executed before, and this is its record.
    Replayed(Record),
}

impl Outcome {
    /// Returns the response; `None` if it was not retained.
    pub fn response(&self) -> Option<&[u8]> {
        match self {
            Outcome::Executed(response) => Some(response),
            Outcome::Replayed(record) => record.response(),
        }
    }
}

/// Why a request has no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum OnceError<S: IdempotencyStore, E> {
    /// The key was used for another request.
    Mismatch,
    /// Another caller is still executing the request.
    InFlight {
        /// When to ask again.
        retry_after: Duration,
    },
    /// It isn't known whether the request took effect, and no settle function found out. The value
    /// has the answer that an earlier holder left ([`Interrupted::answer`]), and when to ask again
    /// ([`Interrupted::settle_after`]). `None` if the store could not return the key's present
    /// state.
    Interrupted(Option<Box<Interrupted<S>>>),
    /// The store refused the claim. Nothing was executed.
    Begin(BeginError),
    /// The work failed.
    Work(WorkError<E>),
    /// The request was executed before, and its answer can't be given as the value that is asked for
    /// (`run_json`, feature `json`): it is not retained, or is no JSON of this type.
    Unreadable {
        /// The record.
        record: Record,
        /// Why.
        why: String,
    },
    /// The work was executed, and its response could not be recorded (it was too large, the claim
    /// was fenced, the store failed): the key is interrupted, or held or decided by another caller,
    /// or unknown until the store is opened again.
    NotRecorded {
        /// Why.
        error: ClaimError,
        /// The answer of the work. Don't send it as if it were recorded.
        response: Vec<u8>,
    },
}

impl<S: IdempotencyStore, E: fmt::Display> fmt::Display for OnceError<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OnceError::Mismatch => f.write_str("the key was used for another request"),
            OnceError::InFlight { .. } => f.write_str("the request is being executed"),
            OnceError::Interrupted(_) => {
                f.write_str("it is unknown whether the request took effect")
            }
            OnceError::Begin(error) => error.fmt(f),
            OnceError::Work(WorkError::NothingDone(error) | WorkError::Unknown(error)) => {
                error.fmt(f)
            }
            OnceError::Unreadable { why, .. } => write!(f, "executed before: {why}"),
            OnceError::NotRecorded { error, .. } => write!(f, "executed but not recorded: {error}"),
        }
    }
}

impl<S, E> std::error::Error for OnceError<S, E>
where
    S: IdempotencyStore + fmt::Debug,
    E: std::error::Error,
{
}

/// A request that takes effect once. Made by [`Store::once`] and [`AsyncStore::once`].
///
/// The store keeps the claim for [`execution_limit`](crate::Options::execution_limit) while the
/// work runs, so a shorter lease has no effect here.
///
/// ```
/// # use onlyonce::{Fingerprint, KeyRef, OnceError, Outcome, Scope, Settled, Store};
/// # use std::{convert::Infallible, time::Duration};
/// # let dir = tempfile::tempdir()?;
/// # let store = Store::open(dir.path())?;
/// # fn find_order(_: &str) -> Option<Vec<u8>> { None }
/// # fn insert_order(_: &str) -> Result<Vec<u8>, Infallible> { Ok(b"order 1".to_vec()) }
/// let scope = Scope::of(["tenant-7", "orders"]);
/// let ran: Result<Outcome, OnceError<_, Infallible>> = store
///     .once(KeyRef::new(&scope, "8e03978e")?, Fingerprint::of(["book", "1"]))
///     .wait(Duration::from_secs(2))
///     .settle(|claim| match find_order(&claim.derive_key("order")) {
///         Some(order) => Settled::Happened(order),
///         None => Settled::NothingHappened,
///     })
///     .run(|claim| Ok(insert_order(&claim.derive_key("order"))?));
/// assert!(matches!(ran, Ok(Outcome::Executed(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens until it is run"]
pub struct Once<'a, S: IdempotencyStore, F = NoSettle> {
    store: S,
    key: KeyRef<'a>,
    fingerprint: Fingerprint,
    terms: Terms,
    wait: Duration,
    silent_holders: bool,
    settle: F,
}

/// No settle function: interrupted keys stay interrupted.
#[derive(Clone, Copy, Debug)]
pub struct NoSettle(());

impl<'a, S: IdempotencyStore> Once<'a, S> {
    pub(crate) fn new(store: S, key: KeyRef<'a>, fingerprint: Fingerprint) -> Self {
        // The thread or task of the work shows that the holder is alive; the store keeps the claim.
        let terms = Terms { keep_alive: true, ..Terms::default() };
        let (wait, settle) = (Duration::ZERO, NoSettle(()));
        Once { store, key, fingerprint, terms, wait, silent_holders: false, settle }
    }

    fn with_settle<F>(self, settle: F) -> Once<'a, S, F> {
        let Once { store, key, fingerprint, terms, wait, silent_holders, .. } = self;
        Once { store, key, fingerprint, terms, wait, silent_holders, settle }
    }
}

impl<'a> Once<'a, Store> {
    /// Tells what became of an interrupted attempt, under a claim that has taken it over. Called
    /// only when the earlier holder is known to be gone (see
    /// [`even_if_holder_lives`](Self::even_if_holder_lives)).
    pub fn settle<F: FnOnce(&Claim<Store>) -> Settled>(self, settle: F) -> Once<'a, Store, F> {
        self.with_settle(settle)
    }
}

impl<'a, S: IdempotencyStore> Once<'a, AsyncStore<S>> {
    /// Tells what became of an interrupted attempt, under a claim that has taken it over. Called
    /// only when the earlier holder is known to be gone (see
    /// [`even_if_holder_lives`](Self::even_if_holder_lives)).
    pub fn settle<F>(self, settle: F) -> Once<'a, AsyncStore<S>, F>
    where
        F: AsyncFnOnce(&Claim<AsyncStore<S>>) -> Settled,
    {
        self.with_settle(settle)
    }
}

impl<'a, S: IdempotencyStore, F> Once<'a, S, F> {
    /// Sets how long to wait for another execution of the same request, however often its holder
    /// changes. Timed by the store's clock. Default: not at all.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = at_most;
        self
    }

    /// Sets other terms than the store's.
    pub fn terms(mut self, terms: Terms) -> Self {
        self.terms = Terms { keep_alive: true, ..terms };
        self
    }

    /// Settles also when the earlier holder is silent but may be alive. Use it only if the settle
    /// function can exclude that the holder continues.
    pub fn even_if_holder_lives(mut self) -> Self {
        self.silent_holders = true;
        self
    }

    fn way(&self, settles: bool) -> Way {
        let until = self.store.now().saturating_add(self.wait);
        Way { until, settles, silent_holders: self.silent_holders, waited: false, took: false }
    }

    fn request(&self) -> Request {
        let Once { key, fingerprint, terms, .. } = self;
        Request { key: key.owned(), fingerprint: *fingerprint, terms: *terms }
    }
}

/// The next step of a request.
enum Next<S: IdempotencyStore, E> {
    Run(Claim<S>),
    Wait(Pending<S>, Duration),
    TakeOver(Interrupted<S>),
    Done(Result<Outcome, OnceError<S, E>>),
}

/// The path to a claim or an answer: begin, wait, take over, and, if another caller was faster,
/// wait for the rest of the time. The same for blocking and async callers, which differ in how they
/// wait.
struct Way {
    /// By the backend's clock.
    until: Duration,
    /// Whether an interrupted key may be taken over to settle it.
    settles: bool,
    silent_holders: bool,
    /// The last step. A wait returns in flight only when its time is over.
    waited: bool,
    took: bool,
}

impl Way {
    /// The step that follows a `begin`, a wait or a takeover.
    fn next<S: IdempotencyStore, E>(&mut self, begin: Begin<S>) -> Next<S, E> {
        match begin {
            Begin::Execute(claim) => Next::Run(claim),
            Begin::Replay(record) => Next::Done(Ok(Outcome::Replayed(record))),
            Begin::Mismatch { .. } => Next::Done(Err(OnceError::Mismatch)),
            Begin::InFlight(pending) => {
                let left = self.left(&pending.store);
                if left.is_zero() || std::mem::replace(&mut self.waited, true) {
                    let retry_after = pending.retry_after();
                    return Next::Done(Err(OnceError::InFlight { retry_after }));
                }
                Next::Wait(pending, left)
            }
            Begin::Interrupted(interrupted) => {
                let again = !self.took || !self.left(&interrupted.store).is_zero();
                if again && self.may_take_over(&interrupted) {
                    (self.waited, self.took) = (false, true);
                    return Next::TakeOver(interrupted);
                }
                Next::Done(Err(OnceError::Interrupted(Some(Box::new(interrupted)))))
            }
        }
    }

    fn left<S: IdempotencyStore>(&self, store: &S) -> Duration {
        self.until.saturating_sub(store.now())
    }

    fn may_take_over<S: IdempotencyStore>(&self, interrupted: &Interrupted<S>) -> bool {
        self.settles
            && (interrupted.holder_gone() || self.silent_holders)
            && interrupted.settle_after().is_zero()
    }
}

/// The answer of a settled key, as it was stored at `now` under these terms. Asking the store would
/// begin: if the record had expired by then, that would claim the key.
fn as_stored(now: Duration, terms: &Terms, token: Token, response: &[u8]) -> Outcome {
    let completed_ms = now.as_millis() as u64;
    let kept = terms.retention.map(|r| r.remember_for.as_millis() as u64);
    // The store's own retention is not known here.
    let expires_ms = kept.map_or(0, |kept| completed_ms.saturating_add(kept));
    Outcome::Replayed(Record::from_parts(token, &[], Some(response), completed_ms, expires_ms))
}

/// The state of a key that could not be settled.
enum Parked<S: IdempotencyStore, E> {
    /// Free after all: its retention has passed, or an operator was faster.
    Granted(Claim<S>),
    Said(Result<Outcome, OnceError<S, E>>),
}

fn parked<S: IdempotencyStore, E>(begin: Result<Begin<S>, BeginError>) -> Parked<S, E> {
    Parked::Said(match begin {
        Ok(Begin::Execute(claim)) => return Parked::Granted(claim),
        Ok(Begin::Replay(record)) => Ok(Outcome::Replayed(record)),
        Ok(Begin::Interrupted(stuck)) => Err(OnceError::Interrupted(Some(Box::new(stuck)))),
        Ok(Begin::InFlight(pending)) => {
            Err(OnceError::InFlight { retry_after: pending.retry_after() })
        }
        Ok(Begin::Mismatch { .. }) => Err(OnceError::Mismatch),
        Err(error) => Err(OnceError::Begin(error)),
    })
}

/// A settle function of a blocking caller, or none.
pub trait Settle {
    #[doc(hidden)]
    fn settle(self, claim: &Claim<Store>) -> Option<Settled>;
    #[doc(hidden)]
    const EXISTS: bool = true;
}

impl Settle for NoSettle {
    fn settle(self, _: &Claim<Store>) -> Option<Settled> {
        None
    }

    const EXISTS: bool = false;
}

impl<F: FnOnce(&Claim<Store>) -> Settled> Settle for F {
    fn settle(self, claim: &Claim<Store>) -> Option<Settled> {
        Some(self(claim))
    }
}

impl<F: Settle> Once<'_, Store, F> {
    /// Runs `work` if the request has not run yet, stores what it answers, and returns the answer
    /// that stands.
    pub fn run<E>(
        self,
        work: impl FnOnce(&mut Claim<Store>) -> Result<Vec<u8>, WorkError<E>>,
    ) -> Result<Outcome, OnceError<Store, E>> {
        let (request, mut way) = (self.request(), self.way(F::EXISTS));
        let mut begin =
            self.store.begin_request(request.clone(), None).map_err(OnceError::Begin)?;
        let mut claim = loop {
            begin = match way.next(begin) {
                Next::Run(claim) => break claim,
                Next::Wait(pending, left) => pending.wait(left).map_err(OnceError::Begin)?,
                Next::TakeOver(interrupted) => interrupted.take_over().map_err(OnceError::Begin)?,
                Next::Done(answer) => return answer,
            };
        };
        // A key that has become free in between has a first attempt, and nothing to settle.
        claim.settling = claim.after().is_some();
        match claim.after().and_then(|_| self.settle.settle(&claim)) {
            Some(Settled::Happened(response)) => {
                return match claim.complete(&response) {
                    Ok(()) => {
                        // A look that claims nothing.
                        let stored = self.store.get(self.key).map(|entry| entry.map(|e| e.state));
                        Ok(match stored {
                            Ok(Some(State::Completed(record))) => Outcome::Replayed(record),
                            _ => as_stored(self.store.now(), &self.terms, claim.token(), &response),
                        })
                    }
                    Err(error) => Err(OnceError::NotRecorded { error, response }),
                };
            }
            Some(Settled::Unknown) => {
                if claim.undo().is_err() {
                    return Err(OnceError::Interrupted(None));
                }
                return match parked(self.store.begin_request(request, None)) {
                    Parked::Granted(claim) => {
                        let _ = claim.release();
                        Err(OnceError::Interrupted(None))
                    }
                    Parked::Said(answer) => answer,
                };
            }
            Some(Settled::NothingHappened) => {
                held_anyway(claim.nothing_happened()).map_err(OnceError::Begin)?;
            }
            None => {}
        }
        claim.settling = false;
        finish(claim, work)
    }
}

fn finish<E>(
    mut claim: Claim<Store>,
    work: impl FnOnce(&mut Claim<Store>) -> Result<Vec<u8>, WorkError<E>>,
) -> Result<Outcome, OnceError<Store, E>> {
    match work(&mut claim) {
        Ok(response) => match claim.complete(&response) {
            Ok(()) => Ok(Outcome::Executed(response)),
            Err(error) => Err(OnceError::NotRecorded { error, response }),
        },
        Err(error) => {
            if let WorkError::NothingDone(_) = error {
                let _ = claim.release();
            }
            Err(OnceError::Work(error))
        }
    }
}

/// A settle function of an async caller, or none.
pub trait SettleAsync<S: IdempotencyStore> {
    #[doc(hidden)]
    fn settle(self, claim: &Claim<AsyncStore<S>>) -> impl Future<Output = Option<Settled>>;
    #[doc(hidden)]
    const EXISTS: bool = true;
}

impl<S: IdempotencyStore> SettleAsync<S> for NoSettle {
    async fn settle(self, _: &Claim<AsyncStore<S>>) -> Option<Settled> {
        None
    }

    const EXISTS: bool = false;
}

impl<S: IdempotencyStore, F> SettleAsync<S> for F
where
    F: AsyncFnOnce(&Claim<AsyncStore<S>>) -> Settled,
{
    async fn settle(self, claim: &Claim<AsyncStore<S>>) -> Option<Settled> {
        Some(self(claim).await)
    }
}

impl<S: IdempotencyStore, F: SettleAsync<S>> Once<'_, AsyncStore<S>, F> {
    /// Runs `work` if the request has not run yet, stores what it answers, and returns the answer
    /// that stands. If this future is dropped while `work` runs, the key is interrupted.
    pub async fn run<E>(
        self,
        work: impl AsyncFnOnce(&mut Claim<AsyncStore<S>>) -> Result<Vec<u8>, WorkError<E>>,
    ) -> Result<Outcome, OnceError<AsyncStore<S>, E>> {
        let Once { key, fingerprint, terms, .. } = self;
        let mut way = self.way(F::EXISTS);
        let begin = self.store.begin_with(key, fingerprint, terms).await;
        let mut begin = begin.map_err(OnceError::Begin)?;
        let mut claim = loop {
            begin = match way.next(begin) {
                Next::Run(claim) => break claim,
                Next::Wait(pending, left) => pending.wait(left).await.map_err(OnceError::Begin)?,
                Next::TakeOver(interrupted) => {
                    interrupted.take_over().await.map_err(OnceError::Begin)?
                }
                Next::Done(answer) => return answer,
            };
        };
        claim.settling = claim.after().is_some();
        let settled = match claim.after() {
            Some(_) => self.settle.settle(&claim).await,
            None => None,
        };
        match settled {
            Some(Settled::Happened(response)) => {
                return match claim.complete(&response).await {
                    Ok(()) => Ok(as_stored(self.store.now(), &terms, claim.token(), &response)),
                    Err(error) => Err(OnceError::NotRecorded { error, response }),
                };
            }
            Some(Settled::Unknown) => {
                if claim.undo().await.is_err() {
                    return Err(OnceError::Interrupted(None));
                }
                return match parked(self.store.begin_with(key, fingerprint, terms).await) {
                    Parked::Granted(claim) => {
                        let _ = claim.release().await;
                        Err(OnceError::Interrupted(None))
                    }
                    Parked::Said(answer) => answer,
                };
            }
            Some(Settled::NothingHappened) => {
                held_anyway(claim.nothing_happened().await).map_err(OnceError::Begin)?;
            }
            None => {}
        }
        claim.settling = false;
        match work(&mut claim).await {
            Ok(response) => match claim.complete(&response).await {
                Ok(()) => Ok(Outcome::Executed(response)),
                Err(error) => Err(OnceError::NotRecorded { error, response }),
            },
            Err(error) => {
                if let WorkError::NothingDone(_) = error {
                    let _ = claim.release().await;
                }
                Err(OnceError::Work(error))
            }
        }
    }
}
