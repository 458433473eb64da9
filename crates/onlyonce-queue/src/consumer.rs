//! A delivery, from its claim to what the queue is told.

use crate::verdict::{Fate, NackReason, ParkReason, Verdict};
use onlyonce::{
    AsyncStore, Begin, BeginError, Claim, Fingerprint, Interrupted, KeyRef, OnceError, Outcome,
    Retry, Scope, Settled, WorkError,
    spi::{IdempotencyStore, Terms},
};
use std::{fmt, time::Duration};

/// A message, as a queue delivers it.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs)]
pub struct Delivery<'a> {
    /// What names the message, the same at each delivery of it: 1 to 255 bytes. An id that its
    /// producer gave it is best; one that the broker gave it does not recognise a message that was
    /// published twice.
    pub id: &'a [u8],
    /// The message.
    pub body: &'a [u8],
    /// How often it has been delivered, from 1, if the queue says it.
    pub nth: Option<u32>,
}

/// Consumes the messages of one queue. Cheap to clone.
#[must_use]
pub struct Consumer<S: IdempotencyStore> {
    store: AsyncStore<S>,
    queue: Scope,
    terms: Terms,
    compares: bool,
    again: Duration,
    longest: Duration,
    deliveries: u32,
}

impl<S: IdempotencyStore> Clone for Consumer<S> {
    fn clone(&self) -> Self {
        Consumer { store: self.store.clone(), queue: self.queue.clone(), ..*self }
    }
}

impl<S: IdempotencyStore> Consumer<S> {
    /// Makes a consumer of the queue of this name: two queues in one store have ids of their own.
    pub fn new(store: S, queue: &str) -> Self {
        Consumer {
            store: AsyncStore::new(store),
            queue: Scope::of(["onlyonce-queue", queue]),
            terms: Terms { reserve: Some(1024), ..Terms::default() },
            compares: true,
            again: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            deliveries: u32::MAX,
        }
    }

    /// Sets other terms of claims: how long ids are remembered (at least as long as the queue may
    /// deliver a message again), the lease.
    pub fn terms(mut self, terms: Terms) -> Self {
        self.terms = terms;
        self
    }

    /// Sets whether a message with the id of another one is parked. If not, the id alone counts, for
    /// queues that change messages between deliveries. Default: yes.
    pub fn compare_bodies(mut self, yes: bool) -> Self {
        self.compares = yes;
        self
    }

    /// Sets the time to the next delivery of a message whose work failed: `first`, twice as long each
    /// time that it is delivered (if the queue counts that), at most `longest`. Default: 1 s and 60 s.
    pub fn again(mut self, first: Duration, longest: Duration) -> Self {
        (self.again, self.longest) = (first, longest.max(first));
        self
    }

    /// Sets after how many deliveries a message whose work still fails is parked, if the queue counts
    /// them. Default: never.
    pub fn max_deliveries(mut self, times: u32) -> Self {
        self.deliveries = times;
        self
    }

    /// Handles a delivery: claims its id, runs `work` once, records that, and says what to tell the
    /// queue. Only then is the queue told.
    ///
    /// `settle` is asked before `work` runs again, when an earlier attempt was interrupted: its
    /// consumer was killed, its work failed half way. Both get the claim:
    /// [`derive_key`](Claim::derive_key) is the same at each attempt, for a unique column or as the
    /// key of a call to another service.
    ///
    /// A dropped future leaves the id interrupted, as a killed consumer does.
    pub async fn handle<E, F, W>(&self, delivery: Delivery<'_>, settle: F, work: W) -> Verdict
    where
        E: fmt::Display,
        F: AsyncFnOnce(&Claim<AsyncStore<S>>) -> Fate,
        W: AsyncFnOnce(&mut Claim<AsyncStore<S>>) -> Result<(), WorkError<E>>,
    {
        let key = match KeyRef::new(&self.queue, delivery.id) {
            Ok(key) => key,
            Err(error) => return park(ParkReason::Refused(error.to_string())),
        };
        let body = if self.compares { delivery.body } else { &[] };
        let mut unknowable = false;
        let ran = self
            .store
            .once(key, Fingerprint::of([body]))
            .terms(self.terms)
            .settle(async |claim: &Claim<AsyncStore<S>>| match settle(claim).await {
                Fate::Happened => Settled::Happened(Vec::new()),
                Fate::NothingHappened => Settled::NothingHappened,
                Fate::AskLater => Settled::Unknown,
                Fate::Unknowable => {
                    unknowable = true;
                    Settled::Unknown
                }
            })
            .run(async |claim: &mut Claim<AsyncStore<S>>| work(claim).await.map(|()| Vec::new()))
            .await;
        match ran {
            Ok(Outcome::Executed(_)) => Verdict::Ack { now: true },
            Ok(Outcome::Replayed(_)) => Verdict::Ack { now: false },
            Err(OnceError::Mismatch) => park(ParkReason::OtherMessage),
            Err(OnceError::InFlight { retry_after }) => nack(retry_after, NackReason::InFlight),
            Err(OnceError::Interrupted(_)) if unknowable => park(ParkReason::Unknowable),
            Err(OnceError::Interrupted(stuck)) => self.stuck(stuck),
            Err(OnceError::Begin(error)) => self.refused(&error),
            Err(OnceError::Work(WorkError::NothingDone(error))) => {
                self.failed(delivery, NackReason::NothingDone(error.to_string()))
            }
            Err(OnceError::Work(WorkError::Unknown(error))) => {
                self.failed(delivery, NackReason::Unknown(error.to_string()))
            }
            // What the work did is found out at the next delivery.
            Err(error) => self.failed(delivery, NackReason::Unknown(error.to_string())),
        }
    }

    /// Handles deliveries that came together: claims all their ids at once, runs `work` for one after
    /// the other, and records at once what was done. The verdicts are in their order, each as
    /// [`handle`](Self::handle) would give it; where claims and records are synced, a batch takes the
    /// syncs of a single message. Two deliveries of one message in a batch: the second is in flight.
    ///
    /// No verdict is known before all work is done. A future that is dropped, as a consumer that is
    /// killed, leaves all ids of the batch interrupted that were claimed and not recorded yet, those
    /// included whose work hadn't begun: `settle` is asked about each.
    pub async fn handle_batch<E, F, W>(
        &self,
        deliveries: &[Delivery<'_>],
        settle: F,
        work: W,
    ) -> Vec<Verdict>
    where
        E: fmt::Display,
        F: AsyncFn(&Claim<AsyncStore<S>>) -> Fate,
        W: AsyncFn(&Delivery<'_>, &mut Claim<AsyncStore<S>>) -> Result<(), WorkError<E>>,
    {
        let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(deliveries.len());
        let mut requests = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let body = if self.compares { delivery.body } else { &[] };
            verdicts.push(match KeyRef::new(&self.queue, delivery.id) {
                Ok(key) => {
                    requests.push((key, Fingerprint::of([body])));
                    None
                }
                Err(error) => Some(park(ParkReason::Refused(error.to_string()))),
            });
        }
        let terms = Terms { keep_alive: true, ..self.terms };
        let mut begun = self.store.begin_many_with(requests, terms).await.into_iter();
        let mut done = Vec::with_capacity(deliveries.len());
        for (at, delivery) in deliveries.iter().enumerate() {
            if verdicts[at].is_some() {
                continue;
            }
            verdicts[at] = match begun.next().expect("one for each") {
                Ok(Begin::Execute(mut claim)) => match work(delivery, &mut claim).await {
                    Ok(()) => {
                        done.push((at, claim));
                        None
                    }
                    Err(WorkError::NothingDone(error)) => {
                        let _ = claim.release().await;
                        Some(self.failed(*delivery, NackReason::NothingDone(error.to_string())))
                    }
                    Err(WorkError::Unknown(error)) => {
                        Some(self.failed(*delivery, NackReason::Unknown(error.to_string())))
                    }
                },
                Ok(Begin::Replay(_)) => Some(Verdict::Ack { now: false }),
                Ok(Begin::Mismatch { .. }) => Some(park(ParkReason::OtherMessage)),
                Ok(Begin::InFlight(pending)) => {
                    Some(nack(pending.retry_after(), NackReason::InFlight))
                }
                Ok(Begin::Interrupted(_)) => {
                    let work = async |claim: &mut Claim<AsyncStore<S>>| work(delivery, claim).await;
                    Some(self.handle(*delivery, &settle, work).await)
                }
                Err(error) => Some(self.refused(&error)),
            };
        }
        let all = done.iter_mut().map(|(_, claim)| (claim, &[][..]));
        let recorded = self.store.complete_many(all).await;
        for ((at, _), recorded) in done.iter().zip(recorded) {
            verdicts[*at] = Some(match recorded {
                Ok(()) => Verdict::Ack { now: true },
                // What the work did is found out at the next delivery.
                Err(error) => self.failed(deliveries[*at], NackReason::Unknown(error.to_string())),
            });
        }
        verdicts.into_iter().map(|verdict| verdict.expect("each has one")).collect()
    }

    /// An earlier attempt has not been settled.
    fn stuck(&self, stuck: Option<Box<Interrupted<AsyncStore<S>>>>) -> Verdict {
        let Some(stuck) = stuck else { return nack(self.again, NackReason::AskLater) };
        match stuck.settle_after() {
            // It is silent, and may be alive: its lease has passed, or its process is being looked for.
            Duration::ZERO if !stuck.holder_gone() => nack(self.again, NackReason::InFlight),
            Duration::ZERO => nack(self.again, NackReason::AskLater),
            after => nack(after, NackReason::AskLater),
        }
    }

    fn refused(&self, error: &BeginError) -> Verdict {
        match error {
            BeginError::AttemptsExhausted { .. } => park(ParkReason::TooOften(error.to_string())),
            _ if error.retry() == Retry::Never => park(ParkReason::Refused(error.to_string())),
            _ => nack(self.again, NackReason::Store(error.to_string())),
        }
    }

    fn failed(&self, delivery: Delivery<'_>, why: NackReason) -> Verdict {
        let nth = delivery.nth.unwrap_or(1).max(1);
        if nth >= self.deliveries {
            return park(ParkReason::TooOften(why.to_string()));
        }
        let after = self.again.saturating_mul(1 << (nth - 1).min(20)).min(self.longest);
        nack(after, why)
    }
}

fn park(why: ParkReason) -> Verdict {
    Verdict::Park { why }
}

fn nack(after: Duration, why: NackReason) -> Verdict {
    Verdict::Nack { after, why }
}

impl<S: IdempotencyStore> fmt::Debug for Consumer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("queue", &self.queue).finish_non_exhaustive()
    }
}
