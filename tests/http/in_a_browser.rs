//! H34: scripts of a page of another origin, in headless Chromium: the preflight, and the marker of a
//! replay that a script reads. Skipped, with a line, where there is no Chromium.

use crate::{admin_client::browser::Browser, service::*};

use http::{HeaderValue, Method, Request, Response, header};
use onlyonce::http::{BoxError, ResponseBody};
use std::net::SocketAddr;
use tower::{Service, ServiceExt};

/// The headers that `docs/http.md` names for CORS.
const ALLOWED: &str = "Content-Type, Idempotency-Key";
const EXPOSED: &str = "Idempotent-Replayed, Idempotency-Retryable, Idempotency-Expires-In, Age, \
                       Retry-After, Location";

/// What a CORS layer outside does.
async fn serve_to_any_origin<I>(inner: I) -> SocketAddr
where
    I: Service<
            Request<hyper::body::Incoming>,
            Response = Response<ResponseBody<AnyBody>>,
            Error = BoxError,
        > + Clone
        + Send
        + 'static,
    I::Future: Send,
{
    let cors = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
        let inner = inner.clone();
        async move {
            let mut answer = match *request.method() {
                Method::OPTIONS => answer(204, ""),
                _ => {
                    let (parts, body) = inner.oneshot(request).await?.into_parts();
                    let body = http_body_util::BodyExt::boxed_unsync(body);
                    Response::from_parts(parts, body)
                }
            };
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED),
                (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED),
            ] {
                answer.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            Ok::<_, BoxError>(answer)
        }
    });
    serve(cors).await
}

#[test]
fn a_page_of_another_origin_reads_the_marker() {
    let Some(mut browser) = Browser::start() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (store, orders) = (store(), counter());
    let (orders_at, page_at) = runtime.block_on(async {
        let page = handler(|_| async {
            with(answer(200, "<!doctype html><title>shop</title>"), "content-type", "text/html")
        });
        (serve_to_any_origin(behind(&layer(&store), &orders)).await, serve(page).await)
    });
    let mut page = browser.open(&format!("http://{page_at}/"));
    page.until("document.title === 'shop'");
    let script = r#"(async () => {
        const order = (body) => fetch("http://ORDERS/orders", {
            method: "POST", body,
            headers: {"Content-Type": "application/json", "Idempotency-Key": "k"},
        });
        const seen = [];
        for (const body of ["{}", "{}", "[]"]) {
            const got = await order(body);
            const read = (name) => got.headers.get(name);
            const marks = [read("Idempotent-Replayed"), read("Idempotency-Retryable")];
            seen.push([got.status, ...marks].join(" "));
        }
        document.title = seen.join(", ");
    })()"#;
    page.eval(&script.replace("ORDERS", &orders_at.to_string()));
    page.until("document.title !== 'shop'");
    let seen = page.eval("document.title");
    assert_eq!(seen, "201 , 201 true , 422 false");
    assert_eq!(orders.runs(), 1);
}
