//! JSON in one spelling: without white space, fields in order, strings unescaped. Numbers stay as
//! they were written, because `1` and `1.0`, or two large integers, may mean different things.

use std::collections::BTreeMap;

const DEPTH_MAX: usize = 100;

/// The canonical spelling; `None` if it is no JSON, too deep, or has a field twice.
#[cfg(test)]
fn json(text: &[u8]) -> Option<Vec<u8>> {
    json_without(text, &[])
}

/// The canonical spelling without the values at some places (JSON pointers): a field is left out,
/// an element is replaced by a mark.
pub(super) fn json_without(text: &[u8], pointers: &[String]) -> Option<Vec<u8>> {
    read(text, pointers).map(|(out, _)| out)
}

/// The canonical spellings of the values at these places alone, in their order, each after its
/// length; one that isn't there differs from all that are.
pub(super) fn json_at(text: &[u8], pointers: &[String]) -> Option<Vec<u8>> {
    let (_, found) = read(text, pointers)?;
    let mut out = Vec::new();
    for value in found {
        let len = value.as_ref().map_or(u64::MAX, |value| value.len() as u64);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&value.unwrap_or_default());
    }
    Some(out)
}

/// What is at each of some places.
type Found = Vec<Option<Vec<u8>>>;

/// The spelling without what is at some places, and what is there.
fn read(text: &[u8], pointers: &[String]) -> Option<(Vec<u8>, Found)> {
    let pointers: Vec<Vec<String>> = pointers.iter().map(|pointer| segments(pointer)).collect();
    let found = vec![None; pointers.len()];
    let text = std::str::from_utf8(text).ok()?.as_bytes();
    let mut reader = Reader { text, at: 0, path: Vec::new(), pointers: &pointers, found };
    let mut out = Vec::with_capacity(text.len());
    reader.value(&mut out, 0)?;
    reader.take_out(&mut out, 0);
    reader.space();
    (reader.at == text.len()).then_some((out, reader.found))
}

/// The steps of a JSON pointer (RFC 6901).
fn segments(pointer: &str) -> Vec<String> {
    let steps = pointer.split('/').skip(1);
    steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the value stands; kept only if there are pointers.
    path: Vec<String>,
    pointers: &'a [Vec<String>],
    /// What was at them.
    found: Found,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Takes the value that was written from `from` on out again, if a pointer names its place.
    fn take_out(&mut self, out: &mut Vec<u8>, from: usize) -> bool {
        let mut named = false;
        for (pointer, found) in self.pointers.iter().zip(&mut self.found) {
            if *pointer == self.path {
                *found = Some(out[from..].to_vec());
                named = true;
            }
        }
        if named {
            out.truncate(from);
        }
        named
    }

    /// A value one step further in. Returns whether it was taken out again.
    fn inner(&mut self, step: &str, out: &mut Vec<u8>, depth: usize) -> Option<bool> {
        if self.pointers.is_empty() {
            return self.value(out, depth).map(|()| false);
        }
        let from = out.len();
        self.path.push(step.to_owned());
        self.value(out, depth)?;
        let named = self.take_out(out, from);
        self.path.pop();
        Some(named)
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.space();
        match self.peek()? {
            b'{' => self.object(out, depth),
            b'[' => self.array(out, depth),
            b'"' => {
                let string = self.string()?;
                write_string(&string, out);
                Some(())
            }
            _ => {
                out.extend_from_slice(self.scalar()?);
                Some(())
            }
        }
    }

    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.at += 1;
        let mut fields: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        if !self.take(b'}') {
            loop {
                self.space();
                let name = self.string()?;
                if !self.take(b':') {
                    return None;
                }
                let mut value = Vec::new();
                let named = self.inner(&name, &mut value, depth + 1)?;
                if fields.insert(name, (!named).then_some(value)).is_some() {
                    return None;
                }
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return None;
                }
            }
        }
        out.push(b'{');
        for (name, value) in fields {
            let Some(value) = value else { continue };
            write_string(&name, out);
            out.extend_from_slice(&value);
        }
        out.push(b'}');
        Some(())
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.at += 1;
        out.push(b'[');
        if !self.take(b']') {
            for number in 0.. {
                // A mark that no value is.
                if self.inner(&number.to_string(), out, depth + 1)? {
                    out.push(b'~');
                }
                out.push(b',');
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return None;
                }
            }
        }
        out.push(b']');
        Some(())
    }

    /// `true`, `false`, `null` or a number, as it is written.
    fn scalar(&mut self) -> Option<&'a [u8]> {
        let rest = &self.text[self.at..];
        let end = rest
            .iter()
            .position(|b| !(b.is_ascii_alphanumeric() || b"+-.".contains(b)))
            .unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += end;
        (matches!(word, b"true" | b"false" | b"null") || is_number(word)).then_some(word)
    }

    fn string(&mut self) -> Option<String> {
        // The text is UTF-8, and is cut at ASCII only.
        if self.peek()? != b'"' {
            return None;
        }
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        serde_json::from_slice(&self.text[start..self.at]).ok()
    }
}

fn is_number(word: &[u8]) -> bool {
    word.first().is_some_and(|b| b.is_ascii_digit() || *b == b'-')
        && serde_json::from_slice::<serde_json::Number>(word).is_ok()
}

/// By length, so that nothing needs an escape.
fn write_string(string: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(&(string.len() as u64).to_le_bytes());
    out.extend_from_slice(string.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::{json, json_at, json_without};

    #[test]
    fn places_are_left_out_or_alone() {
        let one = br#"{"a":{"t":1,"b/c":2},"l":[1,{"t":3}],"t":4}"#;
        let without =
            |text: &[u8]| json_without(text, &["/a/t".into(), "/l/1".into(), "/t".into()]).unwrap();
        assert_eq!(without(one), without(br#"{"l":[1,9],"a":{"b/c":2,"t":{}}}"#));
        for other in [&br#"{"l":[1,9,9],"a":{"b/c":2}}"#[..], br#"{"l":[1],"a":{"b/c":2}}"#] {
            assert_ne!(without(one), without(other));
        }
        let at = |text: &[u8]| json_at(text, &["/a/b~1c".into(), "/l/1/t".into()]).unwrap();
        assert_eq!(at(one), at(br#"{"a":{"b/c": 2},"l":[0,{"t":3,"u":4}]}"#));
        for other in [&br#"{"a":{"b/c":2}}"#[..], br#"{"a":{"b/c":2},"l":[0,{"t":null}]}"#] {
            assert_ne!(at(one), at(other));
        }
        assert_eq!(json_without(b"{\"t\":1}", &[String::new()]), Some(Vec::new()));
        assert_eq!(json_without(b"{\"t\":", &["/t".into()]), None);
    }

    #[test]
    fn spelling_does_not_matter() {
        let one = json(br#"{"a": 1, "b": [true, null, "x"], "\u0063": {}}"#).unwrap();
        let two = json(b"\n{\"c\":{ },\"b\":[true,null,\"\\u0078\"],\"a\":1}\t").unwrap();
        assert_eq!(one, two);
    }

    #[test]
    fn meaning_does() {
        let all = [
            "1",
            "1.0",
            "10",
            "\"1\"",
            "[]",
            "{}",
            "[1,0]",
            "[[1],0]",
            "[1,[0]]",
            "null",
            "\"\"",
            "9007199254740993",
            "9007199254740992",
            r#"{"a":"b"}"#,
            r#"{"ab":""}"#,
            r#"["a","b"]"#,
        ];
        for (i, one) in all.iter().enumerate() {
            for two in &all[i + 1..] {
                assert_ne!(json(one.as_bytes()).unwrap(), json(two.as_bytes()).unwrap());
            }
        }
    }

    #[test]
    fn what_is_no_json_or_ambiguous_has_none() {
        let deep = "[".repeat(100_000);
        for text in
            ["", "{", "[1,]", "{\"a\":1,\"a\":2}", "1 2", "tru", "\"\\", "\"a", "01", "-", "{1:2}"]
        {
            assert_eq!(json(text.as_bytes()), None, "{text}");
        }
        assert_eq!(json(deep.as_bytes()), None);
        assert_eq!(json(b"\"\xff\""), None);
    }
}
