//! An admin service for an open store: it shows what the store does and which keys need a decision,
//! and takes the decisions. Feature `admin`.
//!
//! It is a [`tower`](tower_service) service over `http` types. Mount it **behind your own
//! authentication**: every client that reaches it can read all stored answers and decide about all
//! keys. It needs no runtime; each request is answered on a short-lived thread of its own, so that
//! none of the runtime's threads waits for the disk. At most sixteen requests are answered at a
//! time; more get 503, requests for the health included.
//!
//! ```
//! use onlyonce::{Store, admin::Admin};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path())?;
//! let admin = Admin::new(&store).read_only(true);
//! // axum: Router::new().nest_service("/admin", admin).layer(your_authentication)
//! # let _ = admin;
//! # Ok(()) }
//! ```
//!
//! `GET /` is a page for people; everything it does goes through the JSON API, which
//! `docs/operations.md` describes. Changes are refused that another site's page sends.

mod answer;
mod decide;
mod figures;
mod guard;
mod hour;
mod keys;
mod query;

pub use answer::AdminBody;

use crate::operate::{Operated, Operators};
use answer::Refusal;
use bytes::{Buf, Bytes};
use decide::Proposed;
use futures_channel::oneshot;
use hour::Hour;
use http::{HeaderName, Method, Request, Response, StatusCode, request::Parts};
use http_body::Body;
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};
use tower_service::Service;

const PAGE: &str = include_str!("page.html");

/// Requests that are answered at a time; more get 503.
const AT_ONCE: usize = 16;
/// The largest body of a request, not counting the answer that it may carry.
const BODY_BYTES: usize = 64 << 10;

/// The admin service of one store. It doesn't keep the store open.
#[derive(Clone, Debug)]
pub struct Admin(Arc<Config>);

#[derive(Clone, Debug)]
struct Config {
    store: Operators,
    read_only: bool,
    origins: Vec<String>,
    prefix: String,
    name: String,
    actor_header: Option<HeaderName>,
    note_required: bool,
    second_person: bool,
    proposed: Arc<Mutex<Proposed>>,
    running: Arc<AtomicUsize>,
    hour: Arc<Hour>,
}

/// A place among the requests that are answered at a time, given back when dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Admin {
    /// Makes an admin service for a store (`&Store`, or `&PostgresStore`), which measures times from
    /// now on. A thread takes a sample of the figures every half minute, and ends half a minute after
    /// the store at the latest.
    pub fn new(store: impl Into<Operators>) -> Self {
        let store = store.into();
        let open = store.open();
        // In a forked child there is nothing to watch, and each request is refused.
        if let Some(open) = open.as_ref().filter(|open| open.check().is_ok()) {
            open.timings().watch();
        }
        Admin(Arc::new(Config {
            hour: Hour::watch(&store),
            name: open.map_or_else(String::new, |open| open.place()),
            store,
            read_only: false,
            origins: Vec::new(),
            prefix: String::new(),
            actor_header: None,
            note_required: false,
            second_person: false,
            proposed: Arc::default(),
            running: Arc::default(),
        }))
    }

    fn with(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Arc::unwrap_or_clone(self.0);
        change(&mut config);
        Admin(Arc::new(config))
    }

    /// Sets whether the service only shows, and refuses every change. Default: false.
    pub fn read_only(self, read_only: bool) -> Self {
        self.with(|config| config.read_only = read_only)
    }

    /// Adds an origin from which changes may come, as `https://ops.example:8443`; may be called
    /// several times. Without any it is the `Host` of the request, which is wrong behind a proxy
    /// that rewrites it.
    pub fn origin(self, origin: impl Into<String>) -> Self {
        self.with(|config| config.origins.push(origin.into()))
    }

    /// Sets the path under which the service is mounted, for routers that don't remove it (axum's
    /// `nest_service` does).
    pub fn under(self, prefix: impl Into<String>) -> Self {
        self.with(|config| config.prefix = prefix.into().trim_end_matches('/').to_owned())
    }

    /// Sets the header in which your authentication says who the user is; their decisions are kept
    /// under that name, and refused without it. It must be one that a client can't set by itself.
    /// Default: none, and the name that a request gives is kept as it is.
    pub fn actor_header(self, name: HeaderName) -> Self {
        self.with(|config| config.actor_header = Some(name))
    }

    /// Sets whether a decision needs a note that says why. Default: false.
    pub fn note_required(self, required: bool) -> Self {
        self.with(|config| config.note_required = required)
    }

    /// Sets whether what can execute again (`free`, `forget`, erasing a scope) needs the same
    /// decision of a second person within an hour, told apart by
    /// [`actor_header`](Self::actor_header). The first one is answered 202 and kept in memory.
    /// Default: false.
    pub fn second_person(self, needed: bool) -> Self {
        self.with(|config| config.second_person = needed)
    }

    /// Sets the store's name on the page. Default: its directory, or its table and hosts.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.with(|config| config.name = name.into())
    }
}

impl<B> Service<Request<B>> for Admin
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AdminBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let config = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            Ok(match config.asked(parts, body).await {
                Ok(answer) => answer,
                Err(refusal) => answer::of(Err(refusal)),
            })
        })
    }
}

impl Config {
    /// Checks a request, reads its body if it may have one, and has it answered.
    async fn asked<B>(
        self: Arc<Self>,
        parts: Parts,
        body: B,
    ) -> Result<Response<AdminBody>, Refusal>
    where
        B: Body + Send + 'static,
    {
        let path = parts.uri.path();
        let path = path.strip_prefix(&*self.prefix).unwrap_or(path).to_owned();
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if reads && matches!(&*path, "" | "/") {
            return Ok(answer::page(PAGE));
        }
        let Some(route) = Route::of(&path) else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing under this path"));
        };
        if route.changes() != (parts.method == Method::POST) || !(reads || route.changes()) {
            let why = "this path takes another method";
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, why));
        }
        guard::may_read(&parts)?;
        let mut content = Bytes::new();
        if route.changes() {
            guard::may_change(&parts, &self.origins)?;
            if self.read_only {
                let why = "this service is for reading only";
                return Err(Refusal::new(StatusCode::FORBIDDEN, why));
            }
            content = read(body, BODY_BYTES + self.largest_answer()).await?;
        }
        let running = self.running.clone();
        if running.fetch_add(1, Ordering::AcqRel) >= AT_ONCE {
            running.fetch_sub(1, Ordering::AcqRel);
            let why = "too many requests to the admin service; try again";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why));
        }
        let running = Running(running);
        let (tell, told) = oneshot::channel();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let actor = self.actor(&parts)?;
        let spawned = std::thread::Builder::new().name("onlyonce-admin".into()).spawn(move || {
            let answered = self.answer(route, &query, &content, actor.as_deref());
            drop(running);
            let _ = tell.send(answered);
        });
        let lost = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer was lost");
        spawned
            .map_err(|error| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
        let (status, value) = told.await.map_err(lost)??;
        Ok(answer::json(status, &value))
    }

    /// The name of the user, where the service's authentication says it.
    fn actor(&self, parts: &Parts) -> Result<Option<String>, Refusal> {
        let Some(name) = &self.actor_header else { return Ok(None) };
        let mut lines = parts.headers.get_all(name).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) if !line.is_empty() => {
                Ok(Some(String::from_utf8_lossy(line.as_bytes()).into_owned()))
            }
            // To look needs no name.
            _ if parts.method != Method::POST => Ok(None),
            _ => {
                let why = format!("who decides? the header {name} must say it, once");
                Err(Refusal::new(StatusCode::FORBIDDEN, why))
            }
        }
    }

    /// An escaped byte of an answer takes five characters in JSON.
    fn largest_answer(&self) -> usize {
        self.store.open().map_or(0, |store| 5 * store.settings().max_response)
    }

    /// Answers a request, on a thread that may wait.
    fn answer(
        &self,
        route: Route,
        query: &str,
        content: &[u8],
        actor: Option<&str>,
    ) -> Result<(StatusCode, Value), Refusal> {
        let Some(store) = self.store.open() else {
            let why = "the store is closed";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why));
        };
        let store: &dyn Operated = &*store;
        store.check().map_err(|error| keys::unavailable(&error))?;
        let ok = |value| (StatusCode::OK, value);
        match route {
            Route::Stats => Ok(ok(figures::stats(store, self))),
            Route::Health => Ok(figures::health(store)),
            Route::Keys => keys::list(store, query).map(ok),
            Route::Key => keys::look_up(store, query).map(ok),
            Route::Resolve => decide::resolve(store, self, content, actor),
            Route::Decisions => keys::decisions(store, query).map(ok),
            Route::Erase => decide::erase(store, self, content, actor),
            Route::Drain => decide::drain(store, content).map(ok),
        }
    }
}

/// The routes of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Stats,
    Health,
    Keys,
    Key,
    Resolve,
    Decisions,
    Erase,
    Drain,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/api/stats" => Route::Stats,
            "/api/health" => Route::Health,
            "/api/keys" => Route::Keys,
            "/api/key" => Route::Key,
            "/api/resolve" => Route::Resolve,
            "/api/decisions" => Route::Decisions,
            "/api/erase" => Route::Erase,
            "/api/drain" => Route::Drain,
            _ => return None,
        })
    }

    fn changes(self) -> bool {
        matches!(self, Route::Resolve | Route::Erase | Route::Drain)
    }
}

/// A whole body, if it is not larger.
async fn read<B: Body>(body: B, at_most: usize) -> Result<Bytes, Refusal> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = frame.map_err(|_| Refusal::bad("the body could not be read to its end"))?;
        let Ok(mut data) = frame.into_data() else { continue };
        if bytes.len() + data.remaining() > at_most {
            let why = "the body is too large";
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            let len = chunk.len();
            bytes.extend_from_slice(chunk);
            data.advance(len);
        }
    }
    Ok(bytes.into())
}
