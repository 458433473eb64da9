//! Whose a key is: what an outer proxy has found out about a request's sender.

use anyhow::bail;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use http::{HeaderMap, HeaderName, header};
use onlyonce::http::KeyScope;

/// Where the scope is. One of these is needed.
#[derive(Args)]
#[group(id = "whose", required = true, multiple = false)]
pub struct Choice {
    /// The header that names the account. An outer proxy must set it, and remove what clients send
    /// under this name.
    #[arg(long)]
    scope_header: Option<HeaderName>,
    /// The claim that names the account, of the JWT in `Authorization: Bearer`. Its signature is not
    /// looked at: an outer proxy must have verified it.
    #[arg(long)]
    scope_claim: Option<String>,
    /// All clients share one space of keys: for a service with one client.
    #[arg(long)]
    scope_global: bool,
}

impl Choice {
    /// The scope for the layer.
    pub fn scope(&self) -> anyhow::Result<KeyScope> {
        if let Some(name) = self.scope_header.clone() {
            return Ok(KeyScope::by(move |parts| only(&parts.headers, &name)));
        }
        if let Some(claim) = self.scope_claim.clone() {
            return Ok(KeyScope::by(move |parts| {
                account(&only(&parts.headers, &header::AUTHORIZATION)?, &claim)
            }));
        }
        if self.scope_global {
            return Ok(KeyScope::Global);
        }
        bail!("one of --scope-header, --scope-claim and --scope-global is needed")
    }
}

/// The value of a header that has one line, and is not empty: a second line could be a client's own.
fn only(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?.as_bytes().trim_ascii();
    (lines.next().is_none() && !line.is_empty()).then(|| line.to_vec())
}

/// The claim of a verified token.
fn account(authorization: &[u8], claim: &str) -> Option<Vec<u8>> {
    let line = std::str::from_utf8(authorization).ok()?;
    let (scheme, token) = line.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let payload = token.trim().split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let payload: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    match payload.get(claim)? {
        serde_json::Value::String(text) if !text.is_empty() => Some(text.clone().into_bytes()),
        // As JSON, so that the number 7 and the text "7" are two accounts only if both are in use.
        serde_json::Value::Number(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> Vec<u8> {
        format!("Bearer e30.{}.sig", URL_SAFE_NO_PAD.encode(payload)).into_bytes()
    }

    #[test]
    fn a_claim_is_read_or_there_is_none() {
        assert_eq!(account(&token(r#"{"sub":"ann"}"#), "sub").unwrap(), b"ann");
        assert_eq!(account(&token(r#"{"sub":7}"#), "sub").unwrap(), b"7");
        for bad in [r#"{"sub":""}"#, r#"{"sub":null}"#, r#"{"sub":["a"]}"#, "{}", "no json"] {
            assert_eq!(account(&token(bad), "sub"), None, "{bad}");
        }
        for bad in ["Basic e30.e30.s", "Bearer", "Bearer e30", "Bearer e30.*.s", ""] {
            assert_eq!(account(bad.as_bytes(), "sub"), None, "{bad}");
        }
    }

    #[test]
    fn a_header_with_two_lines_is_none() {
        let name = HeaderName::from_static("x-account");
        let mut headers = HeaderMap::new();
        assert_eq!(only(&headers, &name), None);
        headers.append(&name, "ann".parse().unwrap());
        assert_eq!(only(&headers, &name).unwrap(), b"ann");
        headers.append(&name, "bob".parse().unwrap());
        assert_eq!(only(&headers, &name), None);
    }
}
