//! Refuses changes: those that another site's page has sent, and all of them on a read-only
//! service.
//!
//! A browser sends the credentials of the logged-in user with any request to this origin, also with
//! one that another site's page makes. So a change needs three things that such a page can't give:
//! a header of its own and a JSON body (either makes the browser ask this service first, which
//! never agrees), and no header of the browser that says that it comes from elsewhere.

use super::answer::Refusal;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};

/// Each change must have it, with any value.
pub(super) const HEADER: &str = "x-onlyonce-admin";

/// Whether this request may read.
pub(super) fn may_read(parts: &Parts) -> Result<(), Refusal> {
    match site(&parts.headers) {
        Some(site) if site == "cross-site" => {
            Err(forbidden("requests made by the pages of other sites are refused"))
        }
        _ => Ok(()),
    }
}

/// Whether this request may change something.
pub(super) fn may_change(parts: &Parts, origins: &[String]) -> Result<(), Refusal> {
    let headers = &parts.headers;
    if !headers.contains_key(HEADER) {
        return Err(forbidden("a change needs the header x-onlyonce-admin"));
    }
    if !is_json(headers) {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Refusal::new(status, "a change needs the content type application/json"));
    }
    if site(headers).is_some_and(|site| site != "same-origin") {
        return Err(forbidden("a change must come from this service's own page"));
    }
    let mut named = headers.get_all(header::ORIGIN).iter();
    match (named.next(), named.next()) {
        (None, _) => Ok(()),
        (Some(origin), None) if is_ours(origin, parts, origins) => Ok(()),
        _ => Err(forbidden("a change must come from this service's own origin")),
    }
}

fn forbidden(why: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, why)
}

/// What the browser says of where the request comes from; lines that disagree are none of ours.
fn site(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut lines = headers.get_all("sec-fetch-site").iter();
    let first = lines.next()?;
    static DISAGREE: HeaderValue = HeaderValue::from_static("cross-site");
    Some(if lines.all(|line| line == first) { first } else { &DISAGREE })
}

fn is_json(headers: &HeaderMap) -> bool {
    let line = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = line.and_then(|line| line.split(';').next()).unwrap_or_default();
    media.trim().eq_ignore_ascii_case("application/json")
}

fn is_ours(origin: &HeaderValue, parts: &Parts, origins: &[String]) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    if !origins.is_empty() {
        return origins.iter().any(|ours| ours.eq_ignore_ascii_case(origin));
    }
    let named = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or(parts.uri.authority().map(|authority| authority.as_str()));
    let from = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
    matches!((host, from), (Some(host), Some(from)) if host.eq_ignore_ascii_case(from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::post("/api/resolve").header("host", "admin.example:8080");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const OWN: [(&str, &str); 2] = [(HEADER, "1"), ("content-type", "application/json")];

    fn with(more: &[(&str, &str)], origins: &[String]) -> bool {
        may_change(&parts(&[&OWN, more].concat()), origins).is_ok()
    }

    #[test]
    fn only_whole_requests_of_our_own_change_something() {
        assert!(with(&[], &[]));
        assert!(with(&[("origin", "https://admin.example:8080")], &[]));
        assert!(with(&[("sec-fetch-site", "same-origin")], &[]));
        for line in [
            ("origin", "https://evil.example"),
            ("origin", "https://admin.example"),
            ("origin", "null"),
            ("origin", "https://admin.example:8080.evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "none"),
        ] {
            assert!(!with(&[line], &[]), "{line:?}");
        }
        assert!(!with(&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "none")], &[]));
        assert!(may_change(&parts(&OWN[..1]), &[]).is_err());
        assert!(may_change(&parts(&OWN[1..]), &[]).is_err());
        for media in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
            assert!(
                may_change(&parts(&[OWN[0], ("content-type", media)]), &[]).is_err(),
                "{media}"
            );
        }
    }

    #[test]
    fn behind_a_proxy_the_origins_are_said() {
        let origins = ["https://ops.example".to_owned()];
        assert!(with(&[("origin", "https://ops.example")], &origins));
        assert!(!with(&[("origin", "https://admin.example:8080")], &origins));
    }

    #[test]
    fn other_sites_read_nothing() {
        assert!(may_read(&parts(&[])).is_ok());
        assert!(may_read(&parts(&[("sec-fetch-site", "none")])).is_ok());
        assert!(may_read(&parts(&[("sec-fetch-site", "cross-site")])).is_err());
    }
}
