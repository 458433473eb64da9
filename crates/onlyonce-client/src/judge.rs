//! Whether an answer is the last one.

use http::{HeaderMap, HeaderName, StatusCode, header};
use std::time::{Duration, SystemTime};

const RETRYABLE: HeaderName = HeaderName::from_static("idempotency-retryable");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What an answer says about another try of the same request, with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Judgement {
    /// It is the answer: another try would get it again, or none better.
    Final,
    /// Another try may get another answer.
    Retry {
        /// The least time to wait, if the answer says one.
        after: Option<Duration>,
    },
}

/// Judges an answer to a request that was sent with a key. `body` is as much of the answer's body as
/// is known, `wall` the present time.
///
/// In this order: the header `Idempotency-Retryable` and then a problem's member `retryable`
/// (RFC 9457) decide; a replayed answer (`Idempotent-Replayed: true`) is final; 425, 429 and 503 may
/// be tried again, and so may 408, 500, 502 and 504, which leave open what happened, because the key
/// makes that safe; 409 only with `Retry-After`, because a conflict of the service's own stays one.
/// Everything else is final.
///
/// ```
/// use http::{HeaderMap, HeaderValue, StatusCode};
/// use onlyonce_client::{Judgement, judge};
/// use std::time::{Duration, SystemTime};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("retry-after", HeaderValue::from_static("2"));
/// let judgement = judge(StatusCode::CONFLICT, &headers, b"", SystemTime::now());
/// assert_eq!(judgement, Judgement::Retry { after: Some(Duration::from_secs(2)) });
/// let conflict = judge(StatusCode::CONFLICT, &HeaderMap::new(), b"", SystemTime::now());
/// assert_eq!(conflict, Judgement::Final);
/// ```
pub fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8], wall: SystemTime) -> Judgement {
    let after = retry_after(headers, wall);
    let retryable = told(headers).or_else(|| problem(headers, body)).unwrap_or_else(|| {
        let replayed = headers.get(REPLAYED).is_some_and(|value| value == "true");
        match status.as_u16() {
            _ if replayed => false,
            408 | 425 | 429 | 500 | 502 | 503 | 504 => true,
            409 => after.is_some(),
            _ => false,
        }
    });
    if retryable { Judgement::Retry { after } } else { Judgement::Final }
}

/// The header that the layer sends, in which it says itself what a retry is good for.
fn told(headers: &HeaderMap) -> Option<bool> {
    match headers.get(RETRYABLE)?.as_bytes() {
        b"true" | b"?1" => Some(true),
        b"false" | b"?0" => Some(false),
        _ => None,
    }
}

fn problem(headers: &HeaderMap, body: &[u8]) -> Option<bool> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next()?.trim();
    if !kind.eq_ignore_ascii_case("application/problem+json") {
        return None;
    }
    serde_json::from_slice::<serde_json::Value>(body).ok()?.get("retryable")?.as_bool()
}

fn retry_after(headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Longer than any deadline, if it is no number of this size.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(wall).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn judged(status: u16, fields: &[(&'static str, &'static str)], body: &str) -> Judgement {
        let mut headers = HeaderMap::new();
        for &(name, value) in fields {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let wall = httpdate::parse_http_date("Wed, 21 Oct 2026 07:28:00 GMT").unwrap();
        judge(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), wall)
    }

    #[test]
    fn what_the_layer_says_comes_first() {
        let retry = Judgement::Retry { after: None };
        let json = ("content-type", "application/problem+json; charset=utf-8");
        for (status, fields, body, expected) in [
            (500, vec![("idempotency-retryable", "false")], "", Judgement::Final),
            (
                503,
                vec![("idempotency-retryable", "false"), ("retry-after", "1")],
                "",
                Judgement::Final,
            ),
            (409, vec![("idempotency-retryable", "true")], "", retry),
            (409, vec![json], r#"{"retryable": true}"#, retry),
            (503, vec![json], r#"{"retryable": false}"#, Judgement::Final),
            (
                409,
                vec![json, ("idempotency-retryable", "false")],
                r#"{"retryable": true}"#,
                Judgement::Final,
            ),
            // Not a problem's body.
            (
                409,
                vec![("content-type", "application/json")],
                r#"{"retryable": true}"#,
                Judgement::Final,
            ),
            (503, vec![json], "{\"retryable\": fal", retry),
            (500, vec![("idempotent-replayed", "true")], "", Judgement::Final),
        ] {
            assert_eq!(judged(status, &fields, body), expected, "{status} {fields:?} {body}");
        }
    }

    #[test]
    fn otherwise_the_status_decides() {
        for status in [200, 201, 202, 301, 400, 401, 403, 404, 409, 412, 413, 422, 501, 505] {
            assert_eq!(judged(status, &[], ""), Judgement::Final, "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert_eq!(judged(status, &[], ""), Judgement::Retry { after: None }, "{status}");
        }
    }

    #[test]
    fn times_are_seconds_or_dates() {
        for (value, seconds) in [
            ("7", Some(7)),
            ("0", Some(0)),
            (" 3 ", Some(3)),
            ("99999999999999999999999", Some(u64::from(u32::MAX))),
            ("Wed, 21 Oct 2026 07:28:30 GMT", Some(30)),
            ("Wed, 21 Oct 2026 07:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            let after = seconds.map(Duration::from_secs);
            assert_eq!(
                judged(503, &[("retry-after", value)], ""),
                Judgement::Retry { after },
                "{value}"
            );
        }
    }
}
