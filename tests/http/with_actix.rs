//! What is actix-web's own; the rest is in `frameworks`.

use crate::service::*;

use actix_web::{
    App, Error, HttpMessage, HttpRequest, HttpResponse, HttpServer,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    middleware::{Next, from_fn},
    web,
};
use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::Body;
use onlyonce::{
    Store,
    http::{ActixLayer, Attempt, IdempotencyLayer, KeyScope, StoreReference, Verdict},
};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

/// Serves an application on a socket, in a thread of its own, for as long as the program runs.
fn run(configure: impl Fn(&mut web::ServiceConfig) + Send + Clone + 'static) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || App::new().configure(configure.clone()));
            let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
            tell.send(server.addrs()[0]).unwrap();
            server.run().await.unwrap();
        });
    });
    told.recv().unwrap()
}

/// Serves a handler of the tests under `/orders`.
pub fn serve_actix(layer: &ActixLayer<Store>, orders: &Handler) -> SocketAddr {
    let (layer, orders) = (layer.clone(), orders.clone());
    run(move |app| {
        let orders = orders.clone();
        let create = move |request: HttpRequest, attempt: Option<Attempt>, body: Bytes| {
            let orders = orders.clone();
            async move {
                let mut translated = Request::new(body);
                for (name, value) in request.headers() {
                    let name = http::HeaderName::from_bytes(name.as_str().as_bytes()).unwrap();
                    let value = value.as_bytes().try_into().unwrap();
                    translated.headers_mut().append(name, value);
                }
                translated.extensions_mut().extend(
                    attempt
                        .map(|attempt| {
                            let mut extensions = http::Extensions::new();
                            extensions.insert(attempt);
                            extensions
                        })
                        .unwrap_or_default(),
                );
                orders.runs.fetch_add(1, Ordering::SeqCst);
                answered((orders.run)(translated).await)
            }
        };
        app.service(web::resource("/orders").wrap(layer.clone()).route(web::route().to(create)));
    })
}

/// The same answer for actix-web.
fn answered(answer: http::Response<AnyBody>) -> HttpResponse {
    let (parts, body) = answer.into_parts();
    let status = actix_web::http::StatusCode::from_u16(parts.status.as_u16()).unwrap();
    let mut response = HttpResponse::build(status);
    for (name, value) in &parts.headers {
        response.append_header((name.as_str(), value.as_bytes()));
    }
    let mut response = response.body(BoxBody::new(Piped(body)));
    if let Some(verdict) = parts.extensions.get::<Verdict>() {
        response.extensions_mut().insert(*verdict);
    }
    response
}

struct Piped(AnyBody);

impl MessageBody for Piped {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.0.size_hint().exact().map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let next = Pin::new(&mut self.0).poll_frame(context);
        let data = |frame: http_body::Frame<Bytes>| frame.into_data().unwrap();
        next.map(|next| next.map(|frame| frame.map(data).map_err(|error| error as _)))
    }
}

#[derive(Clone)]
struct Account(String);

/// An authentication: who sends no account is told so by an error.
async fn authenticated(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let account = request.headers().get("account").map(|value| value.to_str().unwrap().to_owned());
    let Some(account) = account else {
        return Err(actix_web::error::ErrorUnauthorized("who are you?"));
    };
    request.extensions_mut().insert(Account(account));
    next.call(request).await
}

fn to(
    path: &'static str,
    account: Option<&'static str>,
    key: &str,
) -> Request<http_body_util::Full<Bytes>> {
    let mut request = post(key);
    *request.uri_mut() = path.parse().unwrap();
    if let Some(account) = account {
        request.headers_mut().insert("account", account.parse().unwrap());
    }
    request
}

/// Scopes come from what a middleware has found; scopes of routes are whole paths; a layer further in
/// lets requests pass; a client may ask for its key.
#[tokio::test]
async fn with_what_actix_has() {
    let (store, runs) = (store(), Arc::new(AtomicU64::new(0)));
    let scope = KeyScope::by(|parts: &Parts| Some(parts.extensions.get::<Account>()?.0.clone()));
    let layer = IdempotencyLayer::new(store.clone(), scope).actix().carry(|request, parts| {
        if let Some(account) = request.extensions().get::<Account>() {
            parts.extensions.insert(account.clone());
        }
    });
    let address = run({
        let runs = runs.clone();
        move |app| {
            let runs = runs.clone();
            let create = move |attempt: Attempt, text: String| {
                let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                let said = format!("{text} {run} {}", attempt.number());
                async move { HttpResponse::Created().body(said) }
            };
            let version = |path: &str| {
                let orders = web::resource("/orders").wrap(layer.clone());
                web::scope(path).service(orders.route(web::post().to(create.clone())))
            };
            let asked = layer.clone();
            let status = move |request: HttpRequest| {
                let asked = asked.clone();
                async move { asked.key_status(&request).await }
            };
            app.service(
                web::scope("")
                    .wrap(layer.clone())
                    .wrap(from_fn(authenticated))
                    .service(web::resource("/idempotency").route(web::get().to(status)))
                    .service(version("/v1"))
                    .service(version("/v2")),
            );
        }
    });
    assert_eq!(send_to(address, to("/v1/orders", None, "k")).await.status, 401);
    let got = send_to(address, to("/v1/orders", Some("a"), "k")).await;
    assert_eq!((got.text(), got.is_replay()), ("one book 1 1", false));
    assert!(send_to(address, to("/v1/orders", Some("a"), "k")).await.is_replay());
    // Another path, another account.
    assert_eq!(send_to(address, to("/v2/orders", Some("a"), "k")).await.problem(), "key-reused");
    assert_eq!(send_to(address, to("/v2/orders", Some("b"), "k")).await.text(), "one book 2 1");
    assert_eq!((store.stats().granted, runs.load(Ordering::SeqCst)), (2, 2));
    let asked = async |account, key| {
        let mut request = to("/idempotency", Some(account), key);
        *request.method_mut() = http::Method::GET;
        send_to(address, request).await.json()
    };
    let done = asked("a", "k").await;
    assert_eq!((&done["state"], &done["status"]), (&"done".into(), &201.into()));
    assert_eq!(asked("a", "l").await["state"], "unknown");
}

/// An error inside the layer is the answer that actix-web makes of it: extractors, middlewares, and
/// handlers.
#[tokio::test]
async fn errors_are_answers() {
    let (store, runs) = (store(), Arc::new(AtomicU64::new(0)));
    let layer = layer(&store).actix();
    let address = run({
        let runs = runs.clone();
        move |app| {
            let (runs, layer) = (runs.clone(), layer.clone());
            let create = move |number: web::Path<u64>| {
                let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                async move {
                    match *number {
                        5 => Err(actix_web::error::ErrorInternalServerError("no database")),
                        _ => Ok(HttpResponse::Created().body(run.to_string())),
                    }
                }
            };
            let orders = web::resource("/orders/{number}").wrap(from_fn(authenticated));
            app.service(orders.wrap(layer).route(web::post().to(create)));
        }
    });
    // A middleware's: nothing was done.
    assert_eq!(send_to(address, to("/orders/1", None, "k")).await.status, 401);
    let got = send_to(address, to("/orders/1", Some("a"), "k")).await;
    assert_eq!((got.text(), got.is_replay()), ("1", false));
    assert!(send_to(address, to("/orders/1", Some("a"), "k")).await.is_replay());
    // An extractor's is final, a handler's interrupts.
    for (path, key, status, interrupted) in [("/orders/x", "l", 404, 0), ("/orders/5", "m", 500, 1)]
    {
        for replay in [false, true] {
            let got = send_to(address, to(path, Some("a"), key)).await;
            assert_eq!((got.status.as_u16(), got.is_replay()), (status, replay), "{path}");
        }
        assert_eq!(store.stats().interrupted, interrupted);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

/// A body that the service keeps itself.
#[tokio::test]
async fn by_reference() {
    let store = store();
    let kept = layer(&store).dereference(|reference: Bytes| async move {
        Ok(Some([b"kept as ", &reference[..]].concat().into()))
    });
    let address = run({
        let layer = kept.actix();
        move |app| {
            let create = || async {
                let mut answer = HttpResponse::Created().body("made");
                answer.extensions_mut().insert(StoreReference(Bytes::from("one")));
                answer
            };
            app.service(web::resource("/orders").wrap(layer.clone()).route(web::post().to(create)));
        }
    });
    assert_eq!(send_to(address, post("k")).await.text(), "made");
    let again = send_to(address, post("k")).await;
    assert_eq!((again.text(), again.is_replay()), ("kept as one", true));
}
