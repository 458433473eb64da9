//! JSON in one spelling: without white space, fields in order, strings unescaped. Numbers stay as
//! they were written, because `1` and `1.0`, or two large integers, may mean different things.

use std::collections::BTreeMap;

const DEPTH_MAX: usize = 100;

/// The canonical spelling; `None` if it is no JSON, too deep, or has a field twice.
pub(super) fn json(text: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader { text: std::str::from_utf8(text).ok()?.as_bytes(), at: 0 };
    let mut out = Vec::with_capacity(text.len());
    reader.value(&mut out, 0)?;
    reader.space();
    (reader.at == reader.text.len()).then_some(out)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
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
        let mut fields = BTreeMap::new();
        if !self.take(b'}') {
            loop {
                self.space();
                let name = self.string()?;
                if !self.take(b':') {
                    return None;
                }
                let mut value = Vec::new();
                self.value(&mut value, depth + 1)?;
                if fields.insert(name, value).is_some() {
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
            loop {
                self.value(out, depth + 1)?;
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
    use super::json;

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
