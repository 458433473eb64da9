//! The part of a request's meaning that is in its body.

use super::canonical;
use std::borrow::Cow;

/// Which bodies are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Those with the same bytes.
    Bytes,
    /// All.
    Any,
    /// JSON with the same values, besides those that are left out.
    Json { without: Vec<String> },
    /// JSON with the same values at these places.
    JsonAt { only: Vec<String> },
}

/// A body as it is hashed: one element where the body's own bytes count (or, as before there were
/// others, JSON by meaning), two where something else does. So bytes never meet what was made of
/// other bytes.
pub(super) struct Hashed<'a> {
    pub domain: Option<&'static [u8]>,
    pub bytes: Cow<'a, [u8]>,
}

impl Hashed<'_> {
    fn of<'a>(domain: &'static str, bytes: impl Into<Cow<'a, [u8]>>) -> Hashed<'a> {
        Hashed { domain: Some(domain.as_bytes()), bytes: bytes.into() }
    }
}

impl Meaning {
    /// What counts of a body. `json`: its media type says so. `multipart`: what its boundary
    /// separates, if its parts are to be compared.
    pub fn of<'a>(&self, body: &'a [u8], json: bool, boundary: Option<&[u8]>) -> Hashed<'a> {
        if *self == Meaning::Any {
            return Hashed::of("any body", &[][..]);
        }
        if let Some(boundary) = boundary {
            return match multipart(boundary, body) {
                Some(parts) => Hashed::of("multipart", parts),
                None => Hashed::of("raw", body),
            };
        }
        let plain = Hashed { domain: None, bytes: Cow::Borrowed(body) };
        match self {
            Meaning::Json { without } if json => match canonical::json_without(body, without) {
                Some(bytes) if without.is_empty() => {
                    Hashed { domain: None, bytes: Cow::Owned(bytes) }
                }
                Some(bytes) => Hashed::of("json without", bytes),
                // Not what the canonical spelling of other bytes could be.
                None => Hashed::of("raw", body),
            },
            Meaning::JsonAt { only } if json => match canonical::json_at(body, only) {
                Some(bytes) => Hashed::of("json at", bytes),
                None => Hashed::of("raw", body),
            },
            _ => plain,
        }
    }
}

/// The boundary that a `Content-Type` of `multipart/...` names.
pub(super) fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let mut pieces = content_type.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let media = pieces.next()?;
    if !media.get(..10)?.eq_ignore_ascii_case(b"multipart/") {
        return None;
    }
    let named = pieces.find_map(|piece| {
        let (name, value) = piece.split_at_checked(9)?;
        name.eq_ignore_ascii_case(b"boundary=").then_some(value)
    })?;
    let bare = named.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    Some(bare.unwrap_or(named).to_vec()).filter(|boundary| !boundary.is_empty())
}

/// Heads and contents of the parts of a multipart body (RFC 2046), each after its length; `None` if
/// it is none, or doesn't end.
fn multipart(boundary: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let line = [b"\r\n--", boundary].concat();
    // The first boundary may be the start of the body.
    let mut at = if body.starts_with(&line[2..]) { line.len() - 2 } else { after(body, 0, &line)? };
    let mut out = Vec::with_capacity(body.len());
    loop {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return Some(out);
        }
        let start = at + rest.iter().position(|byte| !b" \t".contains(byte))?;
        let start = body[start..].starts_with(b"\r\n").then_some(start)?;
        // The line's end may be the one before the next boundary.
        let mut end = start;
        loop {
            end = after(body, end, &line)?;
            if matches!(body.get(end), Some(b'-' | b' ' | b'\t' | b'\r')) {
                break;
            }
        }
        let part = body[start..end - line.len()].get(2..).unwrap_or_default();
        let head = match part.strip_prefix(b"\r\n") {
            Some(_) => 0,
            None => part.windows(4).position(|four| four == b"\r\n\r\n")? + 2,
        };
        for piece in [&part[..head], &part[head + 2..]] {
            out.extend_from_slice(&(piece.len() as u64).to_le_bytes());
            out.extend_from_slice(piece);
        }
        at = end;
    }
}

/// The place after the next `wanted` from `from` on.
fn after(body: &[u8], from: usize, wanted: &[u8]) -> Option<usize> {
    let found = body[from..].windows(wanted.len()).position(|window| window == wanted)?;
    Some(from + found + wanted.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(boundary: &str, parts: &[(&str, &str)]) -> Vec<u8> {
        let mut body = String::new();
        for (head, content) in parts {
            body += &format!("--{boundary}\r\n{head}\r\n{content}\r\n");
        }
        (body + &format!("--{boundary}--\r\n")).into_bytes()
    }

    #[test]
    fn parts_count_and_boundaries_do_not() {
        let read = |boundary: &str, body: &[u8]| multipart(boundary.as_bytes(), body);
        let a = "Content-Disposition: form-data; name=\"a\"\r\n";
        let two = [(a, "1"), (a, "--b\r\n2")];
        let one = read("b1", &form("b1", &two)).unwrap();
        assert_eq!(Some(&one), read("xyz", &form("xyz", &two)).as_ref());
        for other in [&two[..1], &[(a, "1"), (a, "2")], &[(a, "1"), ("", "--b\r\n2")], &[]] {
            assert_ne!(Some(&one), read("b1", &form("b1", other)).as_ref());
        }
        // A longer boundary is none.
        let inside = [(a, "x\r\n--b1x")];
        assert_eq!(read("b1", &form("b1", &inside)), read("q", &form("q", &inside)));
        let cut = form("b1", &two);
        for len in 0..cut.len() - 4 {
            assert_eq!(read("b1", &cut[..len]), None, "{len}");
        }
    }

    #[test]
    fn boundaries_are_found() {
        let of = |text: &str| boundary(text.as_bytes()).map(|b| String::from_utf8(b).unwrap());
        assert_eq!(of("multipart/form-data; boundary=x").as_deref(), Some("x"));
        assert_eq!(of("Multipart/Mixed; a=b; Boundary=\"x y\"").as_deref(), Some("x y"));
        for none in ["multipart/form-data", "text/plain; boundary=x", "multipart/a; boundary="] {
            assert_eq!(of(none), None);
        }
    }
}
