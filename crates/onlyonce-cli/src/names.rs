//! How scopes and keys are written on a command line, and in JSON.

use super::fail::{Code, Failure};
use base64::prelude::*;
pub use onlyonce::names::unhex;
use onlyonce::{
    Scope,
    names::{self, NameError, is_plain},
};
use serde_json::{Map, Value};

/// Text for a terminal: lines and tabs stay, whatever else can't be seen is written out.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if is_plain(c) => shown.push(c),
            c => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

/// A scope as it is printed.
pub fn show_scope(scope: &[u8]) -> String {
    names::of_scope(scope)
}

/// A key as it is printed.
pub fn show_key(key: &[u8]) -> String {
    names::of_key(key)
}

pub fn parse_scope(text: &str) -> Result<Scope, Failure> {
    names::parse_scope(text).map_err(misused)
}

pub fn parse_key(text: &str) -> Result<Vec<u8>, Failure> {
    names::parse_key(text).map_err(misused)
}

fn misused(error: NameError) -> Failure {
    Failure::new(Code::Misused, error.to_string())
}

/// Bytes in JSON: as text if they are text, else as `name_base64`.
pub fn put_bytes(into: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => into.insert(name.into(), text.into()),
        Err(_) => into.insert(format!("{name}_base64"), BASE64_STANDARD.encode(bytes).into()),
    };
}

/// Bytes out of JSON, as [`put_bytes`] writes them. `Ok(None)`: neither is there.
pub fn take_bytes(from: &Map<String, Value>, name: &str) -> Result<Option<Vec<u8>>, String> {
    match (from.get(name), from.get(&format!("{name}_base64"))) {
        (None | Some(Value::Null), None) => Ok(None),
        (Some(Value::String(text)), None) => Ok(Some(text.as_bytes().to_vec())),
        (None, Some(Value::String(text))) => {
            let bytes = BASE64_STANDARD.decode(text);
            bytes.map(Some).map_err(|error| format!("{name}_base64: {error}"))
        }
        _ => Err(format!("{name} must be a string, or {name}_base64 one in base64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_client_s_rules_the_terminal() {
        let evil = "a\u{1b}[31m\u{202e}\u{9b}\u{200b}\r\u{7}";
        let shown = visible(evil);
        assert!(shown.chars().all(is_plain), "{shown}");
        assert_eq!(visible("two\r\nlines\tand \u{e4}"), "two\nlines\tand \u{e4}");
        assert!(show_key(evil.as_bytes()).starts_with("hex:"));
        assert!(show_scope(Scope::of([evil]).as_bytes()).starts_with("hex:"));
    }

    #[test]
    fn bytes_go_through_json() {
        for bytes in [&b"text"[..], b"", &[0xff, 0]] {
            let mut map = Map::new();
            put_bytes(&mut map, "response", bytes);
            assert_eq!(take_bytes(&map, "response").unwrap().unwrap(), bytes);
        }
        assert_eq!(take_bytes(&Map::new(), "response"), Ok(None));
        let bad = Map::from_iter([("k_base64".to_owned(), Value::from("***"))]);
        assert!(take_bytes(&bad, "k").is_err());
    }
}
