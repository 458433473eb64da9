//! Claims of many keys at once: a consumer's batch, a bulk request.

use crate::{
    engine::begin::Delivery,
    engine::driver as drive,
    engine::{Blocked, Engine, StepResult},
    error::{BeginError, ClaimError},
    fingerprint::Fingerprint,
    key::KeyRef,
    observe::{Call, Watch},
    spi::{ClaimOp, Completion, Found, IdempotencyStore, Request, Terms, Ticket},
    store::async_store::AsyncStore,
    store::claim::{Begin, Claim},
    store::{Store, call_of, op_step},
};
use std::sync::Arc;

impl Store {
    /// Claims many keys at once. The outcomes are in the order of the requests, and each is what
    /// [`begin`](Self::begin) would have returned, called for one key after the other; but in
    /// `Synced` one sync, and not one each, makes all claims durable.
    ///
    /// Each request stands for itself: room is reserved for each alone, so some may be granted and
    /// others refused ([`BeginError::StoreFull`]), and a crash leaves of each what it would leave
    /// of a single call. If two requests have the same key, the second sees what another caller
    /// would see: the claim of the first, in flight. All claims are held from now on, and their
    /// leases run: a batch should be done well within a lease.
    ///
    /// Blocks as `begin` does.
    ///
    /// ```
    /// use onlyonce::{Begin, Fingerprint, KeyRef, Scope, Store};
    ///
    /// let (store, scope) = (Store::in_memory()?, Scope::of(["imports"]));
    /// let lines = ["a;1", "b;2", "a;1"];
    /// let request = |line| Ok((KeyRef::new(&scope, line)?, Fingerprint::of([line])));
    /// let requests: Vec<_> = lines.iter().map(request).collect::<Result<_, onlyonce::KeyError>>()?;
    /// let mut claims = Vec::new();
    /// for begin in store.begin_many(requests) {
    ///     match begin? {
    ///         Begin::Execute(claim) => claims.push(claim), // do the work of this line
    ///         Begin::InFlight(_) => {}                     // the third line is the first one again
    ///         other => println!("{other:?}"),
    ///     }
    /// }
    /// assert_eq!(claims.len(), 2);
    /// let done = store.complete_many(claims.iter_mut().map(|claim| (claim, &b"imported"[..])));
    /// assert!(done.iter().all(Result::is_ok));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn begin_many<'k>(
        &self,
        requests: impl IntoIterator<Item = (KeyRef<'k>, Fingerprint)>,
    ) -> Vec<Result<Begin, BeginError>> {
        self.begin_many_with(requests, Terms::default())
    }

    /// Claims many keys like [`begin_many`](Self::begin_many), with other terms than the store's,
    /// which are the same for all.
    pub fn begin_many_with<'k>(
        &self,
        requests: impl IntoIterator<Item = (KeyRef<'k>, Fingerprint)>,
        terms: Terms,
    ) -> Vec<Result<Begin, BeginError>> {
        let requests = owned(requests, terms);
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(forked) => return requests.iter().map(|_| Err(forked.into())).collect(),
        };
        let steps = requests.iter().map(|request| begin_step(engine, request));
        let found = drive::run_all(engine, steps);
        let found = found.into_iter().map(|delivery| delivery.map(Delivery::arrived));
        begun(self, requests, found)
    }

    /// Completes many claims at once, each with a response. The outcomes are in the order of the
    /// claims, and each is what [`Claim::complete`] would have returned; one sync makes all of them
    /// durable. A crash leaves of each what it would leave of a single call.
    ///
    /// Claims of another store are completed there, one after the other.
    ///
    /// Blocks as `complete` does.
    pub fn complete_many<'c>(
        &self,
        completions: impl IntoIterator<Item = (&'c mut Claim, &'c [u8])>,
    ) -> Vec<Result<(), ClaimError>> {
        self.complete_many_with(with_responses(completions))
    }

    /// Completes many claims like [`complete_many`](Self::complete_many), each with a head, or
    /// another retention, or without a response.
    pub fn complete_many_with<'c>(
        &self,
        completions: impl IntoIterator<Item = (&'c mut Claim, Completion<'c>)>,
    ) -> Vec<Result<(), ClaimError>> {
        let mut all: Vec<_> = completions.into_iter().collect();
        let written = match self.engine() {
            Ok(engine) => {
                let writes = writes_of(self, &all);
                let steps = writes.iter().map(|(ticket, op)| write_step(engine, ticket, op));
                drive::run_all(engine, steps)
            }
            Err(forked) => all.iter().map(|_| Err(forked.into())).collect(),
        };
        let mut written = written.into_iter();
        let mut end = |(claim, completion): &mut (&mut Claim, Completion<'_>)| {
            let result = match self.is_same(&claim.store) {
                true => written.next().expect("one for each"),
                false => claim.store.write_blocking(claim.ticket(), ClaimOp::Complete(*completion)),
            };
            claim.ended |= result.is_ok();
            result
        };
        all.iter_mut().map(&mut end).collect()
    }

    pub(super) async fn begin_all(&self, requests: &[Request]) -> Vec<Result<Found, BeginError>> {
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(forked) => return requests.iter().map(|_| Err(forked.into())).collect(),
        };
        let steps = requests.iter().map(|request| begin_step(engine, request));
        let found = drive::all(engine, steps).await;
        found.into_iter().map(|delivery| delivery.map(Delivery::arrived)).collect()
    }

    pub(super) async fn write_all(
        &self,
        writes: &[(&Ticket, ClaimOp<'_>)],
    ) -> Vec<Result<(), ClaimError>> {
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(forked) => return writes.iter().map(|_| Err(forked.into())).collect(),
        };
        let steps = writes.iter().map(|(ticket, op)| write_step(engine, ticket, op));
        drive::all(engine, steps).await
    }
}

impl<S: IdempotencyStore> AsyncStore<S> {
    /// Claims many keys at once; see [`Store::begin_many`]. Backends that have no group commit of
    /// their own begin them one after the other. Dropping the future undoes all claims.
    pub async fn begin_many<'k>(
        &self,
        requests: impl IntoIterator<Item = (KeyRef<'k>, Fingerprint)>,
    ) -> Vec<Result<Begin<AsyncStore<S>>, BeginError>> {
        self.begin_many_with(requests, Terms::default()).await
    }

    /// Claims many keys like [`begin_many`](Self::begin_many), with other terms than the store's,
    /// which are the same for all.
    pub async fn begin_many_with<'k>(
        &self,
        requests: impl IntoIterator<Item = (KeyRef<'k>, Fingerprint)>,
        terms: Terms,
    ) -> Vec<Result<Begin<AsyncStore<S>>, BeginError>> {
        let requests = owned(requests, terms);
        let found = self.get_ref().begin_many(&requests).await;
        begun(self, requests, found.into_iter())
    }

    /// Completes many claims at once; see [`Store::complete_many`]. Dropping the future abandons
    /// the notifications, and the completions that it hasn't come to yet.
    pub async fn complete_many<'c>(
        &self,
        completions: impl IntoIterator<Item = (&'c mut Claim<AsyncStore<S>>, &'c [u8])>,
    ) -> Vec<Result<(), ClaimError>> {
        self.complete_many_with(with_responses(completions)).await
    }

    /// Completes many claims like [`complete_many`](Self::complete_many), each with a head, or
    /// another retention, or without a response.
    pub async fn complete_many_with<'c>(
        &self,
        completions: impl IntoIterator<Item = (&'c mut Claim<AsyncStore<S>>, Completion<'c>)>,
    ) -> Vec<Result<(), ClaimError>> {
        let mut all: Vec<_> = completions.into_iter().collect();
        let written = {
            let writes = writes_of(self, &all);
            self.get_ref().write_many(&writes).await
        };
        let mut written = written.into_iter();
        let mut results = Vec::with_capacity(all.len());
        for (claim, completion) in &mut all {
            let result = match self.is_same(&claim.store) {
                true => written.next().expect("one for each"),
                false => claim.store.write(claim.ticket(), ClaimOp::Complete(*completion)).await,
            };
            claim.ended |= result.is_ok();
            results.push(result);
        }
        results
    }
}

fn owned<'k>(
    requests: impl IntoIterator<Item = (KeyRef<'k>, Fingerprint)>,
    terms: Terms,
) -> Vec<Request> {
    let request =
        |(key, fingerprint): (KeyRef<'k>, _)| Request { key: key.owned(), fingerprint, terms };
    requests.into_iter().map(request).collect()
}

fn with_responses<'c, S: IdempotencyStore>(
    completions: impl IntoIterator<Item = (&'c mut Claim<S>, &'c [u8])>,
) -> impl Iterator<Item = (&'c mut Claim<S>, Completion<'c>)> {
    let with = |response| Completion { response: Some(response), ..Completion::default() };
    completions.into_iter().map(move |(claim, response)| (claim, with(response)))
}

fn begun<S: IdempotencyStore>(
    store: &S,
    requests: Vec<Request>,
    found: impl Iterator<Item = Result<Found, BeginError>>,
) -> Vec<Result<Begin<S>, BeginError>> {
    let begun =
        |(request, found): (_, Result<_, _>)| found.map(|found| Begin::of(store, &request, found));
    requests.into_iter().zip(found).map(begun).collect()
}

/// The completions of those claims that are this store's.
fn writes_of<'a, S: IdempotencyStore>(
    store: &S,
    completions: &'a [(&mut Claim<S>, Completion<'a>)],
) -> Vec<(&'a Ticket, ClaimOp<'a>)> {
    let ours = completions.iter().filter(|(claim, _)| store.is_same(&claim.store));
    ours.map(|(claim, completion)| (claim.ticket(), ClaimOp::Complete(*completion))).collect()
}

type BeginTried = StepResult<Delivery<Arc<Engine>>, BeginError>;

fn begin_step<'a>(
    engine: &'a Arc<Engine>,
    request: &'a Request,
) -> (Watch, impl FnMut(&Engine) -> BeginTried + Send + 'a) {
    let mut prepared = engine.prepare(request);
    let hash = prepared.as_ref().map_or(0, |begin| begin.hash);
    let Call { span, watch } = Call::begin(engine.timings(), hash);
    let step = move |tried: &Engine| {
        let _in = span.enter();
        let begin = prepared.as_mut().map_err(|error| Blocked::Fail(error.clone()))?;
        let step = tried.begin(begin, None)?;
        Ok(step.map(|found| Delivery::new(engine.clone(), found)))
    };
    (watch, step)
}

fn write_step<'a>(
    engine: &Engine,
    ticket: &'a Ticket,
    op: &'a ClaimOp<'a>,
) -> (Watch, impl FnMut(&Engine) -> StepResult<(), ClaimError> + Send + use<'a>) {
    let Call { span, watch } = call_of(engine, ticket, op);
    let step = move |tried: &Engine| {
        let _in = span.enter();
        op_step(tried, ticket, op)
    };
    (watch, step)
}
