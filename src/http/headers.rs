//! The headers of an answer that may be replayed.

use super::stored::Lines;
use http::{HeaderMap, HeaderName, header};

/// Whether a header is for one hop (RFC 9110, 7.6.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
    )
}

/// Whether a header is made for each message.
fn is_made_each_time(name: &str) -> bool {
    let named = matches!(
        name,
        "proxy-authenticate"
            | "proxy-authentication-info"
            | "set-cookie"
            | "set-cookie2"
            | "date"
            | "age"
            | "server-timing"
            | "alt-svc"
            | "www-authenticate"
            | "authentication-info"
            | "request-id"
            | "x-request-id"
            | "x-correlation-id"
            | "x-amzn-requestid"
            | "x-amzn-trace-id"
            | "x-trace-id"
            | "traceparent"
            | "tracestate"
            | "traceresponse"
            | "idempotent-replayed"
            | "idempotency-retryable"
            | "idempotency-expires-in"
            | "ratelimit"
    );
    const FAMILIES: [&str; 4] = ["access-control-", "ratelimit-", "x-ratelimit-", "x-rate-limit-"];
    named || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Whether a header describes one message on one connection: an answer that repeats it is broken.
pub(super) fn is_of_the_message(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || is_hop_by_hop(name.as_str())
}

/// Which headers a replay doesn't repeat.
#[derive(Clone, Debug, Default)]
pub(super) struct Retained {
    pub keep: Vec<HeaderName>,
    pub never: Vec<HeaderName>,
}

impl Retained {
    fn keeps(&self, name: &HeaderName) -> bool {
        if self.never.contains(name) {
            return false;
        }
        let never = is_hop_by_hop(name.as_str()) || is_made_each_time(name.as_str());
        !never || self.keep.contains(name)
    }

    /// The headers of `all` to be kept, lines and their order included. `Content-Length` stays
    /// only with an answer that has no body to show it.
    pub fn of<'a>(&self, all: &'a HeaderMap, bodiless: bool) -> Lines<'a> {
        let named = named_by_connection(all);
        let kept = |(name, _): &(&HeaderName, _)| {
            let length = *name == header::CONTENT_LENGTH && !bodiless;
            !length && self.keeps(name) && !named.contains(name)
        };
        all.iter().filter(kept).collect()
    }
}

/// What `Connection` says is for the next hop only.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(rules: &Retained, headers: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(*name, value.parse().unwrap());
        }
        let kept = rules.of(&all, false);
        kept.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
    }

    #[test]
    fn what_is_the_answers_own_stays() {
        let own = [("content-type", "a/b"), ("link", "<1>"), ("link", "<2>"), ("x-own", "1")];
        let rules = Retained::default();
        assert_eq!(kept(&rules, &own).len(), 4);
        for name in [
            "connection",
            "te",
            "set-cookie",
            "date",
            "age",
            "x-request-id",
            "traceparent",
            "idempotent-replayed",
            "access-control-allow-origin",
            "x-ratelimit-limit",
            "ratelimit",
            "content-length",
        ] {
            assert!(kept(&rules, &[(name, "1")]).is_empty(), "{name}");
        }
        assert!(kept(&rules, &[("x-hop", "1"), ("connection", "close, X-Hop")]).is_empty());
    }

    #[test]
    fn the_list_can_be_changed() {
        let keep = vec![HeaderName::from_static("x-request-id")];
        let never = vec![HeaderName::from_static("x-own")];
        let rules = Retained { keep, never };
        assert_eq!(kept(&rules, &[("x-own", "1"), ("x-request-id", "2")]), ["x-request-id: 2"]);
    }
}
