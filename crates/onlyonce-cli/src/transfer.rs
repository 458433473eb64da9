//! `export` and `import`: keys as JSON lines.

use super::{
    args::{Export, Import},
    fail::{Code, Failure},
    item::to_json,
    list::told,
    names::{parse_key, parse_scope, take_bytes, unhex},
    out::{Busy, Out, inspect},
    owner,
    table::Here,
    units::count,
};
use onlyonce::{
    Begin, Clock, Completion, Durability, Fingerprint, KeyRef, OpenError, Resolution, Retention,
    Scope, Store, SystemClock,
    http::{Fingerprints, StoredAnswer},
};
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read},
    path::Path,
    time::Duration,
};

/// The size up to which an import lets a store grow, if it is not larger already.
const CAPACITY: u64 = 8 << 30;

pub fn export(args: &Export, out: &mut Out) -> Result<(), Failure> {
    if let Some(dsn) = &args.table.dsn {
        let here = Here::connect(dsn, &args.table)?;
        return here.items(|item| out.value(&to_json(item, false)));
    }
    let of = &args.of;
    let inspection = inspect(&of.store)?;
    let mut damaged = inspection.problems().to_vec();
    // Of a store that doesn't believe the wall clock, times are written by the wall clock, which
    // `import` compares them with.
    let info = inspection.info();
    let behind_ms = match info.clock_held {
        true => SystemClock.wall_ms().saturating_sub(info.now_ms),
        false => 0,
    };
    // Lines on a terminal are progress enough.
    let exporting = (!io::stdout().is_terminal()).then(|| Busy::with("exporting"));
    for item in inspection.items() {
        match item {
            Ok(item) => {
                let mut line = to_json(&item, false);
                for name in ["completed_at", "expires_at", "begun_at", "interrupted_at"] {
                    if let Some(at) = line[name].as_u64() {
                        line[name] = at.saturating_add(behind_ms).into();
                    }
                }
                out.value(&line)?;
            }
            Err(problem) => damaged.push(problem),
        }
    }
    out.finish()?;
    drop(exporting);
    told(&of.store, &damaged)
}

/// A file, or stdin.
pub fn read_input(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    input(file)?.read_to_end(&mut bytes).map_err(Failure::io(reading(file)))?;
    Ok(bytes)
}

fn reading(file: &Path) -> String {
    format!("reading {}", file.display())
}

fn input(file: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if file == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(file).map_err(Failure::io(reading(file)))?;
    Ok(Box::new(BufReader::new(file)))
}

/// The outcomes of the lines.
#[derive(Default)]
struct Counts {
    imported: u64,
    known: u64,
    expired: u64,
}

/// A line, understood.
struct Line {
    scope: Scope,
    key: Vec<u8>,
    fingerprint: Fingerprint,
    what: What,
}

enum What {
    Completed { response: Option<Vec<u8>>, head: Vec<u8>, retention: Option<Retention> },
    Undecided { checkpoint: Option<Vec<u8>>, answer: Option<Vec<u8>> },
    Expired,
}

pub fn import(args: &Import, out: &mut Out) -> Result<(), Failure> {
    let lines = input(&args.file)?;
    let durability = Durability::Buffered { max_delay: Duration::from_secs(1) };
    let store = match inspect(&args.of.store) {
        Err(OpenError::NoStore { .. }) if args.create => owner::create(&args.of.store, durability)?,
        Err(OpenError::NoStore { place }) => {
            let line = format!("{place} holds no store; --create creates one");
            return Err(Failure::new(Code::NoStore, line));
        }
        Err(error) => return Err(error.into()),
        Ok(inspection) => {
            let info = inspection.info();
            drop(inspection);
            owner::open(&info, CAPACITY.saturating_sub(info.segment_bytes), durability)?
        }
    };
    let mut counts = Counts::default();
    let importing = Busy::with("importing");
    let done = import_lines(&store, lines, &mut counts, args);
    // The imported records are durable from here on.
    let closed = store.close();
    drop(importing);
    done?;
    closed?;
    let Counts { imported, known, expired } = counts;
    match out.json {
        true => out.value(&json!({ "imported": imported, "known": known, "expired": expired })),
        false => out.line(format_args!(
            "{} imported, {} already there, {} expired",
            count(imported),
            count(known),
            count(expired)
        )),
    }
}

fn import_lines(
    store: &Store,
    lines: Box<dyn BufRead>,
    counts: &mut Counts,
    args: &Import,
) -> Result<(), Failure> {
    for (number, line) in lines.lines().enumerate() {
        let line = line.map_err(Failure::io(reading(&args.file)))?;
        if line.trim().is_empty() {
            continue;
        }
        let understood = understand(&line, SystemClock.wall_ms());
        let done = match understood {
            Ok(line) => take_in(store, line, counts),
            Err(why) => Err(Failure::new(Code::Misused, why)),
        };
        if let Err(Failure::Said { code, line }) = done {
            let number = number + 1;
            let line = format!(
                "line {number}: {line}; the lines before it are imported, and can be imported again \
                 without harm"
            );
            return Err(Failure::new(code, line));
        }
    }
    Ok(())
}

fn take_in(store: &Store, line: Line, counts: &mut Counts) -> Result<(), Failure> {
    let Line { scope, key, fingerprint, what } = line;
    let key = KeyRef::new(&scope, &key).expect("understood");
    if matches!(what, What::Expired) {
        counts.expired += 1;
        return Ok(());
    }
    match (store.begin(key, fingerprint)?, what) {
        (Begin::Execute(mut claim), What::Completed { response, head, retention }) => {
            let response = response.as_deref();
            let completion = Completion { response, head: &head, retention };
            if let Err(error) = claim.complete_with(completion) {
                // Nothing has happened yet: the key is as it was.
                let _ = claim.release();
                return Err(error.into());
            }
            counts.imported += 1;
        }
        (Begin::Execute(mut claim), What::Undecided { checkpoint, answer }) => {
            if let Some(checkpoint) = checkpoint {
                claim.save_checkpoint(&checkpoint)?;
            }
            if let Some(answer) = answer {
                claim.fail(&answer)?;
            }
            drop(claim);
            counts.imported += 1;
        }
        (Begin::Interrupted(_), What::Completed { response, head, retention }) => {
            let response = response.as_deref();
            let completion = Completion { response, head: &head, retention };
            let resolution = Resolution::Complete { fingerprint: None, completion };
            store.resolve(key, resolution)?;
            counts.imported += 1;
        }
        _ => counts.known += 1,
    }
    Ok(())
}

/// Reads a line: one of `export`, or one of the simple form.
fn understand(line: &str, now: u64) -> Result<Line, String> {
    let map = match serde_json::from_str(line) {
        Ok(Value::Object(map)) => map,
        Ok(_) => return Err("a line must be a JSON object".into()),
        Err(error) => return Err(format!("not JSON: {error}")),
    };
    let scope = match map.get("scope") {
        Some(Value::String(text)) => parse_scope(text).map_err(said)?,
        Some(Value::Array(_)) => Scope::of(texts(&map, "scope")?.unwrap_or_default()),
        _ => return Err("scope is missing: text as `list` prints it, or an array of parts".into()),
    };
    let Some(Value::String(key)) = map.get("key") else {
        return Err("key is missing: a string".into());
    };
    let key = parse_key(key).map_err(said)?;
    let fingerprint = fingerprint(&map)?;
    let state = match map.get("state") {
        None => "completed",
        Some(Value::String(state)) => state,
        Some(_) => return Err("state must be a string".into()),
    };
    let what = match state {
        "completed" => completed(&map, now)?,
        "interrupted" | "in-flight" => What::Undecided {
            checkpoint: take_bytes(&map, "checkpoint")?,
            answer: take_bytes(&map, "answer")?,
        },
        _ => return Err("state must be completed, interrupted or in-flight".into()),
    };
    Ok(Line { scope, key, fingerprint, what })
}

fn said(failure: Failure) -> String {
    match failure {
        Failure::Said { line, .. } => line,
        Failure::Unheard => String::new(),
    }
}

fn texts(map: &Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, String> {
    let Some(value) = map.get(name) else { return Ok(None) };
    let text = |part: &Value| part.as_str().map(str::to_owned);
    let parts = value.as_array().and_then(|parts| parts.iter().map(text).collect());
    parts.map(Some).ok_or(format!("{name} must be an array of strings"))
}

fn number(map: &Map<String, Value>, name: &str) -> Result<Option<u64>, String> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(format!("{name} must be a whole number")),
    }
}

fn fingerprint(map: &Map<String, Value>) -> Result<Fingerprint, String> {
    let given = number(map, "scheme")?;
    let scheme = u8::try_from(given.unwrap_or(0)).map_err(|_| "scheme must be 0 to 255")?;
    if let Some(request) = map.get("http_request") {
        let request = request.as_object().ok_or("http_request must be an object")?;
        // The layer's definition has the number 1 unless it was given another one.
        return of_request(request, given.map_or(1, |_| scheme));
    }
    if let Some(parts) = texts(map, "request")? {
        return Ok(Fingerprint::of(parts).with_scheme(scheme));
    }
    match map.get("fingerprint") {
        Some(Value::String(hex)) => {
            let bytes = unhex(hex).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
            let bytes = bytes.ok_or("fingerprint must be 32 hexadecimal digits")?;
            Ok(Fingerprint::from_bytes(bytes).with_scheme(scheme))
        }
        _ => Err("the request's fingerprint is missing: `fingerprint` in hexadecimal digits, or \
                  `request`, an array of the parts that Fingerprint::of gets"
            .into()),
    }
}

/// The fingerprint that the HTTP layer makes of a request by its default definition.
fn of_request(request: &Map<String, Value>, scheme: u8) -> Result<Fingerprint, String> {
    let text = |name: &str| match request.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(format!("{name} of http_request must be a string")),
    };
    let (method, path, query) = (text("method")?, text("path")?, text("query")?);
    if method.is_empty() || !path.starts_with('/') {
        return Err("http_request needs a method, and a path that begins with /".into());
    }
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let mut made = http::Request::builder().method(method).uri(target);
    for (name, value) in [("content-type", text("content_type")?), ("host", text("host")?)] {
        if !value.is_empty() {
            made = made.header(name, value);
        }
    }
    let made = made.body(()).map_err(|error| format!("http_request: {error}"))?;
    let body = take_bytes(request, "body")?.unwrap_or_default();
    Ok(Fingerprints::new().scheme(scheme).of(&made.into_parts().0, &body.into()))
}

/// Head and response.
type Packed = (Vec<u8>, Vec<u8>);

/// An answer as the HTTP layer stores it, from the form in which `export` takes them apart.
fn of_answer(map: &Map<String, Value>) -> Result<Option<Packed>, String> {
    let Some(answer) = map.get("http") else { return Ok(None) };
    let answer = answer.as_object().ok_or("http must be an object")?;
    let status = number(answer, "status")?.and_then(|status| u16::try_from(status).ok());
    let status = status.and_then(|status| http::StatusCode::from_u16(status).ok());
    let status = status.ok_or("http needs a status, such as 201")?;
    let mut headers = http::HeaderMap::new();
    let lines = match answer.get("headers") {
        None => &[][..],
        Some(lines) => lines.as_array().ok_or("headers must be an array of [name, value]")?,
    };
    for line in lines {
        let pair = line.as_array().and_then(|line| match &line[..] {
            [name, value] => Some((name.as_str()?, value.as_str()?)),
            _ => None,
        });
        let (name, value) = pair.ok_or("a header must be [name, value]")?;
        let name = http::HeaderName::try_from(name).map_err(|error| format!("{name}: {error}"))?;
        let value = http::HeaderValue::try_from(value).map_err(|error| error.to_string())?;
        headers.append(name, value);
    }
    let body = take_bytes(answer, "body")?.unwrap_or_default();
    if let Some(why) = StoredAnswer::unfit(status, &headers, &body) {
        return Err(why.into());
    }
    Ok(Some(StoredAnswer::pack(status, &headers, &body)))
}

fn completed(map: &Map<String, Value>, now: u64) -> Result<What, String> {
    // Redis' answers of `TTL`: no expiry, and no such key (any more).
    let seconds = match map.get("expires_in").and_then(Value::as_i64) {
        Some(-1) => None,
        Some(-2) => return Ok(What::Expired),
        _ => number(map, "expires_in")?,
    };
    let expires_at = match (number(map, "expires_at")?, seconds) {
        (Some(at), None) => Some(at),
        (None, Some(seconds)) => Some(now.saturating_add(seconds.saturating_mul(1000))),
        (None, None) => None,
        _ => return Err("expires_at (ms since 1970) or expires_in (seconds), not both".into()),
    };
    if expires_at.is_some_and(|at| at <= now) {
        return Ok(What::Expired);
    }
    let replay_until = match (number(map, "completed_at")?, number(map, "replay_for_ms")?) {
        (Some(at), Some(window)) => Some(at.saturating_add(window)),
        _ => expires_at,
    };
    let mut response = take_bytes(map, "response")?;
    let mut head = take_bytes(map, "head")?;
    let retained = map.get("retained").and_then(Value::as_bool).unwrap_or(true);
    if retained && response.is_none() {
        let Some((short, whole)) = of_answer(map)? else {
            let why = "response (or http) is missing; \"retained\": false says that it is not kept";
            return Err(why.into());
        };
        (response, head) = (Some(whole), head.or(Some(short)));
    }
    let head = head.unwrap_or_default();
    // Once its window has passed a response is not kept any more.
    let response = response.filter(|_| replay_until.is_none_or(|until| until > now));
    let retention = expires_at.map(|at| {
        let remember = at - now;
        let replay = replay_until.map_or(remember, |until| until.saturating_sub(now));
        Retention {
            replay_for: Duration::from_millis(replay.clamp(1, remember)),
            remember_for: Duration::from_millis(remember),
        }
    });
    Ok(What::Completed { response, head, retention })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINT: &str = "\"fingerprint\":\"4f6d13f4e64b4176f2a628c1713b2c33\"";

    fn why(line: &str) -> String {
        understand(line, 1000).err().unwrap_or_else(|| panic!("{line} is understood"))
    }

    #[test]
    fn lines_that_say_too_little_are_refused_with_what_is_missing() {
        assert!(why("nonsense").contains("JSON"));
        assert!(why("[1]").contains("object"));
        assert!(why("{}").contains("scope"));
        assert!(why("{\"scope\":\"a\"}").contains("key"));
        assert!(why("{\"scope\":\"a\",\"key\":\"k\"}").contains("fingerprint"));
        let line = |rest: &str| format!("{{\"scope\":[\"a\"],\"key\":\"k\",{PRINT}{rest}}}");
        assert!(why(&line("")).contains("response"));
        assert!(why(&line(",\"state\":\"lost\"")).contains("state"));
        let both = ",\"response\":\"r\",\"expires_at\":5,\"expires_in\":5";
        assert!(why(&line(both)).contains("not both"));
        let http = |rest: &str| why(&line(&format!(",\"http\":{{{rest}}}")));
        assert!(http("\"body\":\"b\"").contains("status"));
        assert!(http("\"status\":204,\"body\":\"b\"").contains("no body"));
        assert!(http("\"status\":200,\"headers\":[\"a\"]").contains("[name, value]"));
        let request = "{\"scope\":\"a\",\"key\":\"k\",\"http_request\":{\"method\":\"POST\"}}";
        assert!(why(request).contains("a path"));
        assert!(why(&line(",\"response\":\"r\",\"scheme\":256")).contains("scheme"));
    }

    #[test]
    fn windows_are_what_is_left_of_them() {
        let line = |rest: &str| {
            let line =
                format!("{{\"scope\":\"a\",\"key\":\"k\",{PRINT},\"response\":\"r\"{rest}}}");
            understand(&line, 1000).unwrap_or_else(|why| panic!("{why}")).what
        };
        let windows = |what: What| match what {
            What::Completed { response, retention, .. } => {
                let ms = |d: Duration| d.as_millis() as u64;
                (response.is_some(), retention.map(|r| (ms(r.replay_for), ms(r.remember_for))))
            }
            _ => panic!("not completed"),
        };
        assert_eq!(windows(line("")), (true, None));
        assert_eq!(windows(line(",\"expires_in\":2")), (true, Some((2000, 2000))));
        assert_eq!(windows(line(",\"expires_at\":1500")), (true, Some((500, 500))));
        let two = ",\"completed_at\":500,\"replay_for_ms\":600,\"expires_at\":1500";
        assert_eq!(windows(line(two)), (true, Some((100, 500))));
        let past = ",\"completed_at\":500,\"replay_for_ms\":100,\"expires_at\":1500";
        assert_eq!(windows(line(past)), (false, Some((1, 500))));
        assert!(matches!(line(",\"expires_at\":1000"), What::Expired));
        // Redis.
        assert_eq!(windows(line(",\"expires_in\":-1")), (true, None));
        assert!(matches!(line(",\"expires_in\":-2"), What::Expired));
    }
}
