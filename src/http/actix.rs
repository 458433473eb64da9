//! The layer in front of services of actix-web. Feature `actix`.
//!
//! What is decided is decided by the same code as for services of tower; this file only translates,
//! because actix-web has types of its own for requests and answers, and its services stay on one
//! thread.

use super::{
    admit::Admitted,
    attempt::Attempt,
    body::{RequestBody, ResponseBody},
    config::Core,
    detached::Detached,
    execute::execute,
    layer::IdempotencyLayer,
    seal::StoreReference,
    verdict::Verdict,
};
use crate::spi::IdempotencyStore;
use actix_web::{
    Error, HttpMessage, HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform},
    error::{InternalError, PayloadError},
};
use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, request::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    cell::Cell,
    error::Error as StdError,
    fmt,
    future::{Future, Ready, ready},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready as ready_or_pending},
};
use tower_service::Service as TowerService;
use tracing::Instrument;

type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

type Carry = dyn Fn(&HttpRequest, &mut Parts) + Send + Sync;

/// An [`IdempotencyLayer`] as a middleware of actix-web. Made by [`IdempotencyLayer::actix`].
///
/// ```
/// use actix_web::{App, HttpMessage, HttpResponse, web};
/// use onlyonce::{Store, http::{Attempt, IdempotencyLayer, KeyScope}};
///
/// #[derive(Clone)]
/// struct Account(String); // an outer middleware puts it into the request's extensions
///
/// async fn create_order(attempt: Attempt, order: String) -> HttpResponse {
///     HttpResponse::Created().body(format!("{order}: {}", attempt.derive_key("charge")))
/// }
///
/// # fn make(path: &std::path::Path) -> Result<(), onlyonce::OpenError> {
/// let layer = IdempotencyLayer::new(
///     Store::open(path)?,
///     KeyScope::by(|parts| Some(parts.extensions.get::<Account>()?.0.clone())),
/// );
/// let idempotency = layer.actix().carry(|request, parts| {
///     if let Some(account) = request.extensions().get::<Account>() {
///         parts.extensions.insert(account.clone());
///     }
/// });
/// // In the closure that HttpServer::new takes: one layer, and its store, for all threads.
/// let app = App::new().service(
///     web::resource("/orders").wrap(idempotency.clone()).route(web::post().to(create_order)),
/// );
/// # let _ = app;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct ActixLayer<S> {
    layer: IdempotencyLayer<S>,
    carry: Arc<Carry>,
}

impl<S: IdempotencyStore> IdempotencyLayer<S> {
    /// Makes a middleware of actix-web of this layer.
    pub fn actix(&self) -> ActixLayer<S> {
        ActixLayer { layer: self.clone(), carry: Arc::new(|_, _| {}) }
    }
}

impl<S: IdempotencyStore> ActixLayer<S> {
    /// Sets what is carried from a request's extensions of actix-web into the parts that the layer's
    /// functions get (scope, key, fingerprint), where they look for what an authentication has
    /// found. Default: nothing.
    pub fn carry(
        mut self,
        carry: impl Fn(&HttpRequest, &mut Parts) + Send + Sync + 'static,
    ) -> Self {
        self.carry = Arc::new(carry);
        self
    }

    /// Answers a client that asks what has become of its key, as
    /// [`IdempotencyLayer::key_status`] does: for a handler of GET.
    pub async fn key_status(&self, request: &HttpRequest) -> HttpResponse {
        match self.parts(request) {
            Some(parts) => answer_for_actix(self.layer.core.status(&parts).await),
            None => HttpResponse::BadRequest().finish(),
        }
    }

    /// The head of a request; `None` if it can't be one.
    fn parts(&self, request: &HttpRequest) -> Option<Parts> {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::from_bytes(request.method().as_str().as_bytes()).ok()?;
        parts.uri = request.uri().to_string().parse().ok()?;
        for (name, value) in request.headers() {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            parts.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
        if let Some(attempt) = request.extensions().get::<Attempt>() {
            parts.extensions.insert(attempt.clone());
        }
        (self.carry)(request, &mut parts);
        Some(parts)
    }
}

impl<S: Clone> Clone for ActixLayer<S> {
    fn clone(&self) -> Self {
        ActixLayer { layer: self.layer.clone(), carry: self.carry.clone() }
    }
}

impl<S> fmt::Debug for ActixLayer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActixLayer").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<S, I, R> Transform<I, ServiceRequest> for ActixLayer<S>
where
    S: IdempotencyStore,
    I: Service<ServiceRequest, Response = ServiceResponse<R>, Error = Error> + 'static,
    R: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = ActixIdempotency<S, I>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    /// # Panics
    /// If a setting is wrong; see [`check`](IdempotencyLayer::check).
    fn new_transform(&self, inner: I) -> Self::Future {
        if let Err(wrong) = self.layer.check() {
            panic!("{wrong}");
        }
        ready(Ok(ActixIdempotency { layer: self.clone(), inner: Rc::new(inner) }))
    }
}

/// A service of actix-web whose retried requests get the stored answer. Made by [`ActixLayer`].
pub struct ActixIdempotency<S, I> {
    layer: ActixLayer<S>,
    inner: Rc<I>,
}

impl<S, I> fmt::Debug for ActixIdempotency<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActixIdempotency").finish_non_exhaustive()
    }
}

impl<S, I, R> Service<ServiceRequest> for ActixIdempotency<S, I>
where
    S: IdempotencyStore,
    I: Service<ServiceRequest, Response = ServiceResponse<R>, Error = Error> + 'static,
    R: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = LocalBoxFuture<Result<ServiceResponse<BoxBody>, Error>>;

    /// Always ready: the service inside is polled for readiness when it is about to run.
    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        let inner = self.inner.clone();
        let core = &self.layer.layer.core;
        // A head that can't be read as one is not the layer's: the service refuses it.
        let parts = self.layer.parts(request.request());
        let Some(parts) = parts.filter(|parts| core.covers(parts)) else {
            let passing = inner.call(request);
            return Box::pin(async move { Ok(passing.await?.map_into_boxed_body()) });
        };
        let core = core.of_request(&parts.headers);
        let span = core.span.clone();
        let body = Incoming { payload: request.take_payload() };
        let back = Rc::new(Cell::new(None));
        let inner = Inner { service: inner, request: Some(request), back: back.clone() };
        let handled = async move {
            let answer = answer(core, inner, parts, body).await?;
            let answer = answer_for_actix(answer);
            match back.take() {
                Some(request) => Ok(ServiceResponse::new(request, answer)),
                // The service inside has used it up for an error.
                None => Err(InternalError::from_response("", answer).into()),
            }
        };
        Box::pin(handled.instrument(span))
    }
}

/// The answer to a request that the layer covers.
async fn answer<S, I, R>(
    core: Core<S>,
    mut inner: Inner<I>,
    parts: Parts,
    body: Incoming,
) -> Result<Response<ResponseBody<Outgoing<R>>>, Error>
where
    S: IdempotencyStore,
    I: Service<ServiceRequest, Response = ServiceResponse<R>, Error = Error> + 'static,
    R: MessageBody + 'static,
{
    let admitted = match core.admit(&parts, body).await {
        Admitted::Pass(body) => {
            let request = Request::from_parts(parts, body);
            return Ok(inner.call(request).await?.map(ResponseBody::through));
        }
        Admitted::Answered(answer) => return Ok(answer),
        Admitted::Execute(admitted) => admitted,
    };
    let (detached, span) = (core.config.detached, core.span.clone());
    let work: LocalBoxFuture<_> = Box::pin(execute(core, inner, parts, admitted));
    if !detached {
        return work.await;
    }
    let alone = move |work: LocalBoxFuture<_>| {
        let ending = async {
            // The answer is dropped; the next retry finds it in the store.
            drop(work.await);
        };
        actix_web::rt::spawn(ending.instrument(span.clone()));
    };
    Detached::new(work, alone).await
}

/// The service inside, for one request.
struct Inner<I> {
    service: Rc<I>,
    /// Without its payload.
    request: Option<ServiceRequest>,
    /// Where the request is left for the answer: actix-web wants it back.
    back: Rc<Cell<Option<HttpRequest>>>,
}

impl<I> Drop for Inner<I> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            self.back.set(Some(request.into_parts().0));
        }
    }
}

impl<I, R> TowerService<Request<RequestBody<Incoming>>> for Inner<I>
where
    I: Service<ServiceRequest, Response = ServiceResponse<R>, Error = Error> + 'static,
    R: MessageBody + 'static,
{
    type Response = Response<Outgoing<R>>;
    type Error = Error;
    type Future = LocalBoxFuture<Result<Response<Outgoing<R>>, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<RequestBody<Incoming>>) -> Self::Future {
        let mut own = self.request.take().expect("called once");
        let (parts, body) = request.into_parts();
        if let Some(attempt) = parts.extensions.get::<Attempt>() {
            own.extensions_mut().insert(attempt.clone());
        }
        let (through, data, held) = body.into_parts();
        own.set_payload(through.map_or_else(|| Payload::from(data), |body| body.payload));
        if let Some(held) = held {
            // For as long as the request may be read.
            own.extensions_mut().insert(held);
        }
        let (back, running) = (self.back.clone(), self.service.call(own));
        Box::pin(async move {
            match running.await {
                Ok(answer) => {
                    let (request, answer) = answer.into_parts();
                    back.set(Some(request));
                    Ok(answer_of_actix(answer, |body| Outgoing::Service { body }))
                }
                // An error is an answer here.
                Err(error) => {
                    let whole = |body| Outgoing::Error { body };
                    Ok(answer_of_actix(error.error_response(), whole))
                }
            }
        })
    }
}

fn answer_of_actix<B, R>(answer: HttpResponse<B>, body: impl FnOnce(B) -> R) -> Response<R> {
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::OK);
    let mut translated = Response::new(());
    *translated.status_mut() = status;
    for (name, value) in answer.headers() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            translated.headers_mut().append(name, value);
        }
    }
    {
        let extensions = answer.extensions();
        if let Some(verdict) = extensions.get::<Verdict>() {
            translated.extensions_mut().insert(*verdict);
        }
        if let Some(reference) = extensions.get::<StoreReference>() {
            translated.extensions_mut().insert(reference.clone());
        }
    }
    translated.map(|()| body(answer.into_body()))
}

fn answer_for_actix<R>(answer: Response<ResponseBody<R>>) -> HttpResponse
where
    R: Body<Data = Bytes> + 'static,
    R::Error: Into<Box<dyn StdError>>,
{
    use actix_web::http::{StatusCode, header};
    let (parts, body) = answer.into_parts();
    let status = StatusCode::from_u16(parts.status.as_u16()).unwrap_or(StatusCode::OK);
    let mut translated = HttpResponse::new(status);
    for (name, value) in &parts.headers {
        let name = header::HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, header::HeaderValue::from_bytes(value.as_bytes())) {
            translated.headers_mut().append(name, value);
        }
    }
    translated.set_body(BoxBody::new(Answer(Box::pin(body))))
}

pin_project! {
    /// A request's payload.
    struct Incoming {
        #[pin]
        payload: Payload,
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        self.project().payload.poll_next(context).map(|next| next.map(|data| data.map(Frame::data)))
    }
}

pin_project! {
    /// The body of the service's own answer.
    #[project = OutgoingProjection]
    enum Outgoing<R> {
        Service { #[pin] body: R },
        Error { #[pin] body: BoxBody },
    }
}

impl<R: MessageBody> Body for Outgoing<R> {
    type Data = Bytes;
    type Error = Box<dyn StdError>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Box<dyn StdError>>>> {
        let next = match self.project() {
            OutgoingProjection::Service { body } => {
                ready_or_pending!(body.poll_next(context)).map(|data| data.map_err(Into::into))
            }
            OutgoingProjection::Error { body } => ready_or_pending!(body.poll_next(context)),
        };
        Poll::Ready(next.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.size(), BodySize::None | BodySize::Sized(0))
    }

    fn size_hint(&self) -> SizeHint {
        match self.size() {
            BodySize::None => SizeHint::with_exact(0),
            BodySize::Sized(len) => SizeHint::with_exact(len),
            BodySize::Stream => SizeHint::default(),
        }
    }
}

impl<R: MessageBody> Outgoing<R> {
    fn size(&self) -> BodySize {
        match self {
            Outgoing::Service { body } => body.size(),
            Outgoing::Error { body } => body.size(),
        }
    }
}

/// The body of the client's answer. Trailers are left out: actix-web has none.
struct Answer<R: Body>(Pin<Box<ResponseBody<R>>>);

impl<R> MessageBody for Answer<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<Box<dyn StdError>>,
{
    type Error = Box<dyn StdError>;

    fn size(&self) -> BodySize {
        match self.0.size_hint().exact() {
            Some(len) => BodySize::Sized(len),
            None => BodySize::Stream,
        }
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<dyn StdError>>>> {
        loop {
            let frame = match ready_or_pending!(self.0.as_mut().poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => frame,
            };
            if let Ok(data) = frame.into_data() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }
}
