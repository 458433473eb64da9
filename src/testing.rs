//! A check for a service's own handlers. Feature `testing`.

use crate::{
    Options, Store,
    http::{BoxError, Problem},
    storage::SimStorage,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use std::{
    collections::HashSet,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{runtime::Runtime, task::yield_now};
use tower_service::Service;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Callers in a race.
const RACERS: usize = 8;
/// The maximum number of moments at which a call is cut off.
const MOMENTS_MAX: u64 = 300;
/// The maximum number of scheduler turns that a process lives for.
const TURNS_MAX: u64 = 1 << 24;
/// The maximum number of scheduler turns after the effect.
const AFTER_MAX: u64 = 50;

/// When a process dies: after this many turns of its scheduler, or this many after the effect.
struct Moment {
    turns: u64,
    after_effect: u64,
}

/// Checks that a service takes effect once, however its clients and its process end.
///
/// `service` builds the service around a store, with its layer and its settings; `request` is sent
/// again and again, under keys that the check makes; `count_effects` returns the total number of
/// effects so far. Each of these cases must have one effect:
///
/// * the request is sent twice, and the second answer is the first;
/// * eight callers race;
/// * the client goes away after each poll of its call, then tries again;
/// * the answer is dropped unread, then asked for again;
/// * the process dies at many moments (its tasks are dropped where they are, its store is opened
///   again from what was written), then the client tries again.
///
/// A key that stays interrupted after a death is allowed, because the operation may have taken
/// effect. Blocks; call it from a plain `#[test]`. The store is in memory.
///
/// ```
/// use onlyonce::{Store, http::{IdempotencyLayer, KeyScope}, testing::{Whole, assert_idempotent}};
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// use tower_layer::Layer;
/// # use std::convert::Infallible;
///
/// let effects = Arc::new(AtomicU64::new(0));
/// let service = |store: Store| {
///     let effects = effects.clone();
///     let handler = tower::service_fn(move |_: http::Request<_>| {
///         effects.fetch_add(1, Ordering::SeqCst);
///         async { Ok::<_, Infallible>(http::Response::new(Whole::from("done"))) }
///     });
///     IdempotencyLayer::new(store, KeyScope::Global).layer(handler)
/// };
/// let request = http::Request::post("/orders").body("one book".into()).unwrap();
/// assert_idempotent(service, request, || effects.load(Ordering::SeqCst));
/// ```
///
/// # Panics
/// If a case has more or fewer effects. The message names the case.
pub fn assert_idempotent<I, R>(
    service: impl Fn(Store) -> I + Sync,
    request: Request<Bytes>,
    count_effects: impl Fn() -> u64 + Sync,
) where
    I: Service<Request<Whole>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send,
    I::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let check = Check { service, request, count: count_effects, keys: AtomicU64::new(0) };
    // Of its own, because a caller may be in a runtime already.
    let checked = std::thread::scope(|scope| scope.spawn(|| check.all()).join());
    if let Err(panic) = checked {
        std::panic::resume_unwind(panic);
    }
}

/// A body that is in memory.
#[derive(Clone, Debug, Default)]
pub struct Whole(Option<Bytes>);

impl<T: Into<Bytes>> From<T> for Whole {
    fn from(bytes: T) -> Self {
        Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// An answer of the service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Answer {
    status: StatusCode,
    replayed: bool,
    problem: bool,
    in_flight: bool,
    body: Vec<u8>,
}

struct Check<F, C> {
    service: F,
    request: Request<Bytes>,
    count: C,
    keys: AtomicU64,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn store(disk: &SimStorage) -> Store {
    let options = Options::new().max_response(64 << 10).max_claims(256).capacity(64 << 20);
    options.open_on(Arc::new(disk.clone())).expect("a store in memory opens")
}

impl<F, C, I, R> Check<F, C>
where
    F: Fn(Store) -> I,
    C: Fn() -> u64,
    I: Service<Request<Whole>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send,
    I::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    fn all(&self) {
        let live = runtime();
        let service = (self.service)(store(&SimStorage::new(1)));
        live.block_on(self.twice(&service));
        live.block_on(self.race(&service));
        live.block_on(self.leave(&service));
        live.block_on(self.drop_the_answer(&service));
        // Early, at moments further and further apart, …
        let mut turns = 0;
        while turns < TURNS_MAX && !self.die(&Moment { turns, after_effect: 0 }) {
            turns = turns * 2 + 1;
        }
        // … and closely after the effect.
        let turns = TURNS_MAX;
        (0..AFTER_MAX)
            .find(|after_effect| self.die(&Moment { turns, after_effect: *after_effect }));
    }

    /// The request under a key that was not used before.
    fn fresh(&self) -> Request<Bytes> {
        let mut request = self.request.clone();
        let key = format!("check-{}", self.keys.fetch_add(1, Ordering::Relaxed));
        request.headers_mut().insert(KEY, HeaderValue::from_str(&key).expect("ASCII"));
        request
    }

    /// There has been exactly one effect since there were `before`.
    fn one_since(&self, before: u64, case: &str) {
        let effects = (self.count)() - before;
        assert_eq!(effects, 1, "{case}: the request took effect {effects} times");
    }

    async fn twice(&self, service: &I) {
        let (request, before) = (self.fresh(), (self.count)());
        let first = answer(service, &request).await;
        assert!(
            !first.problem && !first.replayed,
            "sent once: the service answered {first:?}; choose a request that it accepts"
        );
        self.one_since(before, "sent once");
        let second = answer(service, &request).await;
        self.one_since(before, "sent twice");
        assert_eq!(
            (first.status, &first.body, true),
            (second.status, &second.body, second.replayed),
            "sent twice: the second answer is not the first one, replayed"
        );
    }

    async fn race(&self, service: &I) {
        let (request, before) = (self.fresh(), (self.count)());
        let mut calls: Vec<_> =
            (0..RACERS).map(|_| Some(Box::pin(answer(service, &request)))).collect();
        let mut answers = HashSet::new();
        poll_fn(|context| {
            for slot in &mut calls {
                if let Some(call) = slot
                    && let Poll::Ready(answer) = call.as_mut().poll(context)
                {
                    *slot = None;
                    if !answer.problem {
                        answers.insert((answer.status, answer.body));
                    }
                }
            }
            if calls.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.one_since(before, "eight callers at once");
        assert_eq!(answers.len(), 1, "eight callers at once were answered differently");
    }

    async fn leave(&self, service: &I) {
        for polls in 0..MOMENTS_MAX {
            let (request, before) = (self.fresh(), (self.count)());
            let left = Leaving { call: Box::pin(answer(service, &request)), polls }.await;
            let last = settled(service, &request).await;
            let case = format!("the client left after {polls} polls");
            self.judge(before, &last, &case);
            if left.is_some() {
                return;
            }
        }
    }

    async fn drop_the_answer(&self, service: &I) {
        let (request, before) = (self.fresh(), (self.count)());
        drop(call(service, &request).await);
        let again = settled(service, &request).await;
        self.one_since(before, "the answer was lost");
        assert!(again.replayed, "the answer was lost, and the retry was not a replay: {again:?}");
    }

    /// The process dies. Whether the call had ended by then.
    fn die(&self, moment: &Moment) -> bool {
        let (request, before) = (self.fresh(), (self.count)());
        let disk = SimStorage::new(moment.turns);
        let first_life = runtime();
        let service = (self.service)(store(&disk));
        let (ended, next) = first_life.block_on(async {
            let mut call = Box::pin(answer(&service, &request));
            let (mut ended, mut after) = (false, 0);
            for _ in 0..moment.turns {
                ended =
                    poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_ready())).await;
                after += u64::from((self.count)() > before);
                if ended || after > moment.after_effect && moment.turns == TURNS_MAX {
                    break;
                }
                yield_now().await;
            }
            // From here on nothing of this life reaches the disk.
            (ended, disk.kill())
        });
        drop(first_life);
        drop(service);
        let second_life = runtime();
        let last = second_life.block_on(async {
            let service = (self.service)(store(&next));
            settled(&service, &request).await
        });
        self.judge(before, &last, "the process died");
        ended
    }

    /// An answer means one effect; an interrupted key at most one.
    fn judge(&self, before: u64, last: &Answer, case: &str) {
        let effects = (self.count)() - before;
        let allowed = if last.problem { 0..=1 } else { 1..=1 };
        assert!(
            allowed.contains(&effects),
            "{case}: the request took effect {effects} times; the retry got {last:?}"
        );
    }
}

async fn call<I, R>(service: &I, request: &Request<Bytes>) -> Response<R>
where
    I: Service<Request<Whole>, Response = Response<R>> + Clone,
    I::Error: Into<BoxError>,
{
    let mut service = service.clone();
    let failed = |error: I::Error| -> ! { panic!("the service failed: {}", error.into()) };
    if let Err(error) = poll_fn(|context| service.poll_ready(context)).await {
        failed(error);
    }
    match service.call(request.clone().map(Whole::from)).await {
        Ok(response) => response,
        Err(error) => failed(error),
    }
}

async fn answer<I, R>(service: &I, request: &Request<Bytes>) -> Answer
where
    I: Service<Request<Whole>, Response = Response<R>> + Clone,
    I::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let (parts, body) = call(service, request).await.into_parts();
    let (mut body, mut bytes) = (Box::pin(body), Vec::new());
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = frame.unwrap_or_else(|error| panic!("the body failed: {}", error.into()));
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    let is = |name: &str, value: &str| parts.headers.get(name).is_some_and(|v| v == value);
    let refused = parts.extensions.get::<Problem>().copied();
    // Of a service that is another process behind this one, or rebuilds answers.
    let document = is("content-type", "application/problem+json") && parts.status.as_u16() >= 409;
    let in_flight = match refused {
        Some(problem) => problem == Problem::InFlight,
        None => document && has(&bytes, b"problem:in-flight"),
    };
    let replayed = is("idempotent-replayed", "true");
    let problem = refused.is_some() || document;
    Answer { status: parts.status, replayed, problem, in_flight, body: bytes }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Asks until the request is no longer in flight.
async fn settled<I, R>(service: &I, request: &Request<Bytes>) -> Answer
where
    I: Service<Request<Whole>, Response = Response<R>> + Clone,
    I::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    loop {
        let answer = answer(service, request).await;
        if !answer.in_flight {
            return answer;
        }
        yield_now().await;
    }
}

/// A call that is dropped after so many polls.
struct Leaving<F> {
    call: Pin<Box<F>>,
    polls: u64,
}

impl<F: Future> Future for Leaving<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.polls -= 1;
        self.call.as_mut().poll(context).map(Some)
    }
}
