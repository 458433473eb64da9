//! The parts of a request that make two requests the same.

use super::meaning::{Meaning, boundary};
use crate::fingerprint::Fingerprint;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Uri, header, request::Parts};
use smallvec::SmallVec;
use std::{borrow::Cow, sync::Arc};

type Own = dyn Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync;

/// The definition of a request's fingerprint: host, method, path, query, media type, `If-Match`,
/// `If-None-Match`, body, and the parts that are added here.
///
/// A service that changes its definition gives the new one another [`scheme`](Self::scheme) and
/// names the old one with [`or_older`](Self::or_older), so that a retry across the deployment is
/// still recognised. The keys that [`Attempt::derive_key`](crate::http::Attempt::derive_key) makes
/// change with the definition, see [`or_older`](Self::or_older).
///
/// ```
/// use onlyonce::http::Fingerprints;
/// let old = Fingerprints::new();
/// let now = Fingerprints::new().scheme(2).canonical_json(true).or_older(old);
/// # let _ = now;
/// ```
#[derive(Clone)]
#[must_use]
pub struct Fingerprints {
    scheme: u8,
    secret: Option<[u8; 32]>,
    body: Meaning,
    multipart: bool,
    /// Stands for everything.
    own: Option<Arc<Own>>,
    host: bool,
    query: bool,
    query_order: bool,
    headers: Vec<HeaderName>,
    older: Vec<Fingerprints>,
}

impl Default for Fingerprints {
    fn default() -> Self {
        Fingerprints {
            scheme: 1,
            secret: None,
            body: Meaning::Bytes,
            multipart: false,
            own: None,
            host: true,
            query: true,
            query_order: true,
            headers: vec![header::IF_MATCH, header::IF_NONE_MATCH],
            older: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Fingerprints {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fingerprints")
            .field("scheme", &self.scheme)
            .field("keyed", &self.secret.is_some())
            .field("body", &self.body)
            .field("multipart", &self.multipart)
            .field("own", &self.own.is_some())
            .field("host", &self.host)
            .field("query", &self.query)
            .field("query_order", &self.query_order)
            .field("headers", &self.headers)
            .field("older", &self.older)
            .finish()
    }
}

impl Fingerprints {
    /// Returns the default definition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of this definition. Default: 1. Operators' tools take a key with the number 0
    /// for one of a service without the layer, so 0 is better left to those.
    pub fn scheme(mut self, number: u8) -> Self {
        self.scheme = number;
        self
    }

    /// Keys the hash, for bodies that must not be guessed from it (card numbers, PINs). Default:
    /// not keyed.
    pub fn keyed(mut self, secret: [u8; 32]) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Sets whether JSON bodies that differ only in white space, in the order of fields or in how
    /// strings are escaped are the same. Numbers are compared as they are written. Default: no.
    pub fn canonical_json(mut self, yes: bool) -> Self {
        self.body = if yes { Meaning::Json { without: Vec::new() } } else { Meaning::Bytes };
        self
    }

    /// Leaves values out of JSON bodies, named by JSON pointers (RFC 6901), because clients make
    /// them for each try: `/sent_at`, `/meta/request_id`. The rest is compared as with
    /// [`canonical_json`](Self::canonical_json).
    pub fn json_without<P: Into<String>>(mut self, pointers: impl IntoIterator<Item = P>) -> Self {
        self.body = Meaning::Json { without: pointers.into_iter().map(Into::into).collect() };
        self
    }

    /// Compares the values of JSON bodies at these JSON pointers and nothing else of the body. What
    /// isn't named may differ, so name all that the operation depends on.
    pub fn json_only<P: Into<String>>(mut self, pointers: impl IntoIterator<Item = P>) -> Self {
        self.body = Meaning::JsonAt { only: pointers.into_iter().map(Into::into).collect() };
        self
    }

    /// Sets whether the body belongs to the request. Default: yes, by its bytes. Leave it out where
    /// the key alone names the operation and its sender may write the body another way, as with
    /// events of webhooks.
    pub fn body(mut self, yes: bool) -> Self {
        self.body = if yes { Meaning::Bytes } else { Meaning::Any };
        self
    }

    /// Sets whether `multipart` bodies are compared by their parts (the head of each, and its
    /// content) and not by the boundary, which most clients make for each try. Default: no.
    pub fn multipart(mut self, yes: bool) -> Self {
        self.multipart = yes;
        self
    }

    /// Makes a definition of a function: two requests are the same if it returns the same bytes for
    /// them. Nothing else counts, so its bytes should say what is asked for, of whom. Delimit what
    /// it puts together, so that `ab` and `c` are not `a` and `bc`.
    ///
    /// ```
    /// use onlyonce::http::Fingerprints;
    /// let rules = Fingerprints::by(|parts, body| {
    ///     let target = parts.uri.path().as_bytes();
    ///     [&(target.len() as u64).to_le_bytes()[..], target, &body[..]].concat()
    /// });
    /// # let _ = rules;
    /// ```
    pub fn by<P: AsRef<[u8]>>(own: impl Fn(&Parts, &Bytes) -> P + Send + Sync + 'static) -> Self {
        let own = move |parts: &Parts, body: &Bytes| own(parts, body).as_ref().to_vec();
        Fingerprints { own: Some(Arc::new(own)), ..Self::default() }
    }

    /// Whether the host that the client names (`Host`, or `:authority` of HTTP/2, in any case of
    /// its letters, with its port) belongs to the request. Default: yes, so that a service for
    /// several hosts never answers one by another's answer. Leave it out if one service is reached
    /// by several names or ports and a retry may choose another one, or if a proxy before it
    /// changes the name.
    ///
    /// A definition without it is what this library used before it had this part; so a service that
    /// takes it up knows its older keys by
    /// `Fingerprints::new().scheme(2).or_older(Fingerprints::new().host(false))`.
    pub fn host(mut self, yes: bool) -> Self {
        self.host = yes;
        self
    }

    /// Whether the order of the query's parameters matters. If not, they are compared as sorted by
    /// their names, those of one name in their order. Default: yes.
    pub fn query_order(mut self, yes: bool) -> Self {
        self.query_order = yes;
        self
    }

    /// Sets whether the query is part of the request. Default: yes.
    pub fn query(mut self, yes: bool) -> Self {
        self.query = yes;
        self
    }

    /// Adds headers that are part of the request's meaning, such as `Accept-Language` or a version.
    /// Each named header counts, absent or not, with all its lines in their order.
    pub fn headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers.extend(names);
        self
    }

    /// Adds an earlier definition, with its own scheme's number. May be called for several.
    ///
    /// A key that the store knows keeps the fingerprint with which it was claimed, and so its
    /// derived keys. But a key that the store has forgotten (an interrupted key that expired, a
    /// claim that a loss of power removed where claims aren't synced, a restored backup) is claimed
    /// by the present definition. Its [`derive_key`](crate::Claim::derive_key) is another one then,
    /// so another service treats the retry as a new operation, and a unique column doesn't refuse
    /// it.
    pub fn or_older(mut self, older: Fingerprints) -> Self {
        self.older.push(older);
        self
    }

    /// Whether a fingerprint with this number was made by a definition that isn't known here, and
    /// not by a service without the layer.
    pub(super) fn is_foreign(&self, scheme: u8) -> bool {
        scheme != 0 && scheme != self.scheme && self.older(scheme).is_none()
    }

    /// A pointer that is none.
    pub(super) fn bad_pointer(&self) -> Option<&str> {
        let pointers = match &self.body {
            Meaning::Json { without: pointers } | Meaning::JsonAt { only: pointers } => pointers,
            Meaning::Bytes | Meaning::Any => return None,
        };
        let bad = |pointer: &&String| !pointer.is_empty() && !pointer.starts_with('/');
        pointers.iter().find(bad).map(String::as_str)
    }

    /// The older definition with this number.
    pub(super) fn older(&self, scheme: u8) -> Option<&Fingerprints> {
        self.older.iter().find(|older| older.scheme == scheme && scheme != self.scheme)
    }

    /// A number of two definitions, of which retries could find one only.
    pub(super) fn twice(&self) -> Option<u8> {
        let mut numbers: Vec<u8> = self.older.iter().map(|older| older.scheme).collect();
        numbers.push(self.scheme);
        numbers.sort_unstable();
        numbers.windows(2).find(|two| two[0] == two[1]).map(|two| two[0])
    }

    /// For the published policy: what counts besides headers.
    pub(super) fn parts(&self) -> Vec<&'static str> {
        if self.own.is_some() {
            return vec!["what the service chooses"];
        }
        let host = self.host.then_some("host");
        let query = self.query.then_some(match self.query_order {
            true => "query",
            false => "query in any order",
        });
        host.into_iter()
            .chain(["method", "path"])
            .chain(query)
            .chain(["media type"])
            .chain(match (&self.body, self.multipart) {
                (Meaning::Any, _) => None,
                (_, true) => Some("body, multipart by its parts"),
                (_, false) => Some("body"),
            })
            .collect()
    }

    /// For the published policy.
    pub(super) fn header_names(&self) -> &[HeaderName] {
        &self.headers
    }

    pub(super) fn is_canonical(&self) -> bool {
        matches!(self.body, Meaning::Json { .. } | Meaning::JsonAt { .. })
    }

    /// For the published policy: the values of JSON bodies that don't count, and those that alone
    /// do.
    pub(super) fn pointers(&self) -> (&[String], &[String]) {
        match &self.body {
            Meaning::Json { without } => (without, &[]),
            Meaning::JsonAt { only } => (&[], only),
            Meaning::Bytes | Meaning::Any => (&[], &[]),
        }
    }

    /// With the number of the definition, and keyed if that is asked for.
    fn hashed<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
        let fingerprint = match &self.secret {
            Some(secret) => Fingerprint::keyed(secret, parts),
            None => Fingerprint::of(parts),
        };
        fingerprint.with_scheme(self.scheme)
    }

    /// Returns the fingerprint of a request, as the layer makes it by this definition: for programs
    /// that put records of another store into this one.
    pub fn of(&self, parts: &Parts, body: &Bytes) -> Fingerprint {
        if let Some(own) = &self.own {
            return self.hashed([b"http by".as_slice(), &own(parts, body)]);
        }
        let uri = original_uri(parts);
        let query = uri.query().filter(|_| self.query).unwrap_or_default();
        let query = if self.query_order { Cow::Borrowed(query) } else { sorted(query) };
        let host = if self.host { Some(host(parts, uri)) } else { None };
        let media = media_type(&parts.headers);
        let boundary = if self.multipart { of_multipart(&parts.headers) } else { None };
        let body = self.body.of(body, is_json(&media), boundary.as_deref());
        let mut hashed = SmallVec::<[&[u8]; 16]>::new();
        match &host {
            Some(host) => {
                hashed.push(b"http and host");
                hashed.push(host);
            }
            None => hashed.push(b"http"),
        }
        let target = [parts.method.as_str(), uri.path(), &query];
        target.into_iter().for_each(|part| hashed.push(part.as_bytes()));
        hashed.push(&media);
        for name in &self.headers {
            for value in parts.headers.get_all(name) {
                hashed.push(value.as_bytes());
            }
            // Ends the lines of this header: no value looks so.
            hashed.push(b"\n");
        }
        hashed.extend(body.domain);
        hashed.push(&body.bytes);
        self.hashed(hashed)
    }
}

fn of_multipart(headers: &HeaderMap) -> Option<Vec<u8>> {
    boundary(headers.get(header::CONTENT_TYPE)?.as_bytes())
}

/// The host that the client names, in lower case; empty if it names none. What a request line or
/// `:authority` says comes before `Host` (RFC 9112, 3.2.2).
fn host<'a>(parts: &'a Parts, original: &'a Uri) -> Cow<'a, [u8]> {
    let authority = original.authority().or_else(|| parts.uri.authority());
    let host = match authority {
        // Without what isn't the host's.
        Some(authority) => authority.as_str().rsplit('@').next().unwrap_or_default().as_bytes(),
        None => parts.headers.get(header::HOST).map_or(&b""[..], |value| value.as_bytes()),
    };
    match host.iter().any(u8::is_ascii_uppercase) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

/// A query with its parameters sorted by name.
fn sorted(query: &str) -> Cow<'_, str> {
    let name = |parameter: &&str| parameter.split('=').next().unwrap_or_default().to_owned();
    let mut parameters: Vec<&str> = query.split('&').collect();
    if parameters.is_sorted_by_key(name) {
        return Cow::Borrowed(query);
    }
    parameters.sort_by_key(name);
    Cow::Owned(parameters.join("&"))
}

/// Path and query as the client sent them. axum's nested routers strip prefixes from the request's
/// own; `/v1/orders` and `/v2/orders` are different requests all the same.
pub(super) fn original_target(parts: &Parts) -> (&str, Option<&str>) {
    let uri = original_uri(parts);
    (uri.path(), uri.query())
}

fn original_uri(parts: &Parts) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    &parts.uri
}

/// The media type in lower case and without parameters; empty if there is none.
pub(super) fn media_type(headers: &HeaderMap) -> Cow<'_, [u8]> {
    let value = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    // Most values are so.
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'A'..=b'Z' | b';');
    if value.iter().all(is_plain) {
        return Cow::Borrowed(value);
    }
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    Cow::Owned(String::from_utf8_lossy(essence).to_ascii_lowercase().into_bytes())
}

fn is_json(media: &[u8]) -> bool {
    media == b"application/json" || media.ends_with(b"+json")
}

#[cfg(test)]
mod tests {
    use super::{super::canonical, *};
    use http::Request;

    fn of(rules: &Fingerprints, uri: &str, headers: &[(&str, &str)], body: &str) -> Fingerprint {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        rules
            .of(&request.body(()).unwrap().into_parts().0, &Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn meaning_counts_and_spelling_does_not() {
        let rules = Fingerprints::new();
        let json = ("content-type", "application/json");
        let one = of(&rules, "/a?b=1", &[json], "{}");
        let same = [("x-request-id", "7"), ("content-type", "Application/JSON; charset=utf-8")];
        assert_eq!(one, of(&rules, "/a?b=1", &same, "{}"));
        for other in [
            of(&rules, "/a?b=2", &[json], "{}"),
            of(&rules, "/a", &[json], "{}"),
            of(&rules, "/v2/a?b=1", &[json], "{}"),
            of(&rules, "/a?b=1", &[], "{}"),
            of(&rules, "/a?b=1", &[json], "{ }"),
            of(&rules, "/a?b=1", &[json, ("if-match", "\"1\"")], "{}"),
            of(&rules, "/a?b=1", &[json, ("if-none-match", "\"1\"")], "{}"),
            of(&rules.clone().keyed([1; 32]), "/a?b=1", &[json], "{}"),
            of(&rules.clone().scheme(2), "/a?b=1", &[json], "{}"),
        ] {
            assert_ne!(one, other);
        }
        let if_match = of(&rules, "/a", &[("if-match", "\"1\"")], "");
        assert_ne!(if_match, of(&rules, "/a", &[("if-none-match", "\"1\"")], ""));
    }

    #[test]
    fn json_is_compared_by_meaning_when_asked_to() {
        let rules = Fingerprints::new().canonical_json(true);
        let json = [("content-type", "application/vnd.order+json")];
        let one = of(&rules, "/a", &json, r#"{"a":1,"b":2}"#);
        assert_eq!(one, of(&rules, "/a", &json, r#"{ "b":2, "a":1 }"#));
        assert_ne!(one, of(&rules, "/a", &json, r#"{"a":1,"b":3}"#));
        assert_ne!(of(&rules, "/a", &[], "{ }"), of(&rules, "/a", &[], "{}"));
        assert_ne!(of(&rules, "/a", &json, "{"), of(&rules, "/a", &json, "{ "));
        // What is no JSON never meets what is made of JSON.
        let spelled = String::from_utf8(canonical::json_without(b"\"a\"", &[]).unwrap()).unwrap();
        assert_ne!(of(&rules, "/a", &json, "\"a\""), of(&rules, "/a", &json, &spelled));
    }

    /// Changing these bytes would turn every retry across an upgrade into a mismatch.
    #[test]
    fn the_bytes_are_pinned() {
        let hex = |rules: &Fingerprints, headers: &[_], body| -> String {
            let print = of(rules, "/orders?a=1", headers, body);
            print.as_bytes().iter().map(|b| format!("{b:02x}")).collect()
        };
        let plain = of(&Fingerprints::new().host(false), "/orders", &[], "one");
        let plain: String = plain.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(plain, "856ef6fe4de282135e08ca3aa5f95a63");
        let json = [("content-type", "application/json"), ("if-match", "\"7\"")];
        let body = r#"{ "b": [1.0, "\u0041\n"], "a": null }"#;
        assert_eq!(
            hex(&Fingerprints::new().host(false), &json, body),
            "8f0e5713699ea241a55a8388adba18ef"
        );
        let canonical = Fingerprints::new().host(false).canonical_json(true);
        assert_eq!(hex(&canonical, &json, body), "e21cc1329cfff6cd20a79ae5875d0eb4");
        assert_eq!(
            hex(&canonical.clone().keyed([7; 32]), &json, body),
            "c7161076802bd48391ebade1827a976f"
        );
        let more = canonical.query(false).headers([header::ACCEPT_LANGUAGE]);
        assert_eq!(hex(&more, &json, body), "4c66b6047c484841a2933fc378cde569");
        let host = [("host", "Orders.test:80")];
        assert_eq!(hex(&Fingerprints::new(), &host, "one"), "4a440f23330adc72aeca78443f80d503");
    }
}
