//! The admin service under `/admin`, for operators with the token.

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use onlyonce::{Operators, admin::Admin};
use std::sync::Arc;

/// `/admin`: a page and its API. Browsers ask for a name (any will do) and the token as the
/// password; programs send `Authorization: Bearer TOKEN`.
pub fn routes(store: Operators, token: String) -> Router {
    let admin = Admin::new(store).name("orders");
    let token: Arc<str> = token.into();
    let guarded = from_fn(move |request: Request, next: Next| {
        let token = token.clone();
        async move {
            match knows(request.headers(), &token) {
                true => next.run(request).await,
                false => ask(),
            }
        }
    });
    Router::new().nest_service("/admin", admin).layer(guarded)
}

fn ask() -> Response {
    let how = [(header::WWW_AUTHENTICATE, "Basic realm=\"orders admin\"")];
    (StatusCode::UNAUTHORIZED, how, "who are you?\n").into_response()
}

/// Whether the token is among the credentials.
fn knows(headers: &HeaderMap, token: &str) -> bool {
    let line = headers.get(header::AUTHORIZATION).and_then(|line| line.to_str().ok());
    match line.and_then(|line| line.split_once(' ')) {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") => {
            same(given.as_bytes(), token.as_bytes())
        }
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("basic") => {
            let plain = STANDARD.decode(given).unwrap_or_default();
            let password = plain.iter().position(|byte| *byte == b':').map(|at| &plain[at + 1..]);
            password.is_some_and(|password| same(password, token.as_bytes()))
        }
        _ => false,
    }
}

/// Compares in a time that doesn't tell how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
