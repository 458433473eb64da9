//! Any bytes to what the HTTP layer reads: its stored answers, and the header of the key.

use super::input::Input;
use onlyonce::internals::fuzzing;

/// A stored answer: an even first byte, then its bytes, whatever they are. Or one that is made from
/// the input: an odd first byte, status u16, two lists of lines (count; lengths of name and value,
/// name, value), body.
pub fn answer(bytes: &[u8]) {
    let mut input = Input(bytes);
    if input.byte() & 1 == 0 {
        fuzzing::answer(input.0);
        return;
    }
    let status = input.number::<2>() as u16;
    let (headers, trailers) = (lines(&mut input), lines(&mut input));
    fuzzing::made_answer(status, [&headers, &trailers], input.0);
}

fn lines<'a>(input: &mut Input<'a>) -> Vec<(&'a [u8], &'a [u8])> {
    let count = input.below(32);
    let line = |_| {
        let (name, value) = (input.below(40), input.byte() as usize);
        (input.take(name), input.take(value))
    };
    (0..count).map(line).collect()
}

/// A line of the header. What is a key has one spelling in quotes and perhaps one without, and both
/// say the same key; what a string says is told by a second, plainer reader.
pub fn key(bytes: &[u8]) {
    let found = fuzzing::key(bytes);
    if let Some(plain) = string(bytes) {
        let key = plain.filter(|key| (1..=255).contains(&key.len()));
        assert_eq!(found, key, "two readers of a string");
    }
    let Some(key) = found else {
        return;
    };
    assert!((1..=255).contains(&key.len()));
    assert!(key.iter().all(|byte| (0x20..0x7f).contains(byte)));
    assert_eq!(fuzzing::key(&quoted(&key)).as_ref(), Some(&key));
    let bare = key.iter().all(|byte| byte.is_ascii_graphic() && !b"\"\\,;".contains(byte));
    assert_eq!(fuzzing::key(&key).filter(|_| bare), bare.then_some(key));
}

fn quoted(key: &[u8]) -> Vec<u8> {
    let mut line = vec![b'"'];
    for byte in key {
        if b"\"\\".contains(byte) {
            line.push(b'\\');
        }
        line.push(*byte);
    }
    line.push(b'"');
    line
}

/// What RFC 9651 (4.2.5) makes of a line that begins with a quote and has no parameters: the
/// string, or none. `None` if it is no such line.
fn string(line: &[u8]) -> Option<Option<Vec<u8>>> {
    let mut rest = line.trim_ascii().strip_prefix(b"\"")?.iter();
    let mut key = Vec::new();
    loop {
        match rest.next() {
            Some(b'"') if rest.as_slice().is_empty() => return Some(Some(key)),
            Some(b'"') => return None,
            Some(b'\\') => match rest.next() {
                Some(escaped @ (b'"' | b'\\')) => key.push(*escaped),
                _ => return Some(None),
            },
            Some(byte @ 0x20..=0x7e) => key.push(*byte),
            _ => return Some(None),
        }
    }
}
