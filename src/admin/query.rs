//! The query of a request's target.

use super::answer::Refusal;

/// The value of a parameter, decoded; `None` if it isn't there.
pub(super) fn get(query: &str, name: &str) -> Result<Option<String>, Refusal> {
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key == name {
            let decoded = decode(value).and_then(|bytes| String::from_utf8(bytes).ok());
            let bad = || Refusal::bad(format!("the parameter {name} is not percent-encoded UTF-8"));
            return Ok(Some(decoded.ok_or_else(bad)?));
        }
    }
    Ok(None)
}

/// A number, or what it is if nothing is said.
pub(super) fn number(query: &str, name: &str, otherwise: u64) -> Result<u64, Refusal> {
    match get(query, name)?.filter(|text| !text.is_empty()) {
        None => Ok(otherwise),
        Some(text) => {
            text.parse().map_err(|_| Refusal::bad(format!("the parameter {name} is not a number")))
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'+', after) => (b' ', after),
            (b'%', [high, low, after @ ..]) => {
                let digit = |c: u8| char::from(c).to_digit(16);
                ((digit(*high)? << 4 | digit(*low)?) as u8, after)
            }
            (b'%', _) => return None,
            (plain, after) => (plain, after),
        };
        bytes.push(byte);
        rest = after;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = "scope=&key=a%2Fb+c%5Cx00&limit=7&flag";
        assert_eq!(get(query, "scope").unwrap().as_deref(), Some(""));
        assert_eq!(get(query, "key").unwrap().as_deref(), Some("a/b c\\x00"));
        assert_eq!(get(query, "flag").unwrap().as_deref(), Some(""));
        assert_eq!(get(query, "none").unwrap(), None);
        assert_eq!(number(query, "limit", 1).unwrap(), 7);
        assert_eq!(number(query, "scope", 1).unwrap(), 1);
        assert!(number("limit=many", "limit", 1).is_err());
        for bad in ["key=%", "key=%4", "key=%zz", "key=%ff"] {
            assert!(get(bad, "key").is_err(), "{bad}");
        }
    }
}
