//! `--url` and `--dsn`: the same questions, put to the admin service of a running store, or to one
//! that is made for a store in PostgreSQL.

use super::{
    args::{Ask, By, Command, Decisions, Get, How, List, Resolve, Wanted, parse_header},
    decisions, erase,
    fail::{Code, Failure},
    list::{Row, Table, style_of},
    names::{parse_key, parse_scope, visible},
    out::{BAD, DIM, GOOD, Out},
    resolve::{self, Decision},
    resolve_many,
    table::Here,
    units::{date, many, size, span},
};
use serde_json::{Value, json};
use std::time::Duration;

/// Figures of a process, which say nothing when it is this one.
const OF_PROCESS: [&str; 5] = [
    "connections",
    "connections_idle",
    "connections_max",
    "connections_waited_for",
    "ends_under_way",
];
/// The number of keys that the service is asked for at a time.
const PAGE: usize = 1000;
/// An answer of the service is not larger.
const ANSWER_BYTES: u64 = 256 << 20;

/// An admin service.
pub enum Remote {
    Running(Running),
    Here(Here),
}

/// That of a running store.
pub struct Running {
    base: String,
    headers: Vec<(String, String)>,
    agent: ureq::Agent,
}

pub fn run(remote: &Remote, command: &Command, out: &mut Out) -> Result<(), Failure> {
    match command {
        Command::Info(_) => remote.info(out),
        Command::List(list) => remote.list(list, out),
        Command::Get(get) => remote.get_key(get, out),
        Command::Resolve(resolve) => remote.resolve(resolve, out),
        Command::ResolveMany(many) => resolve_many::run_at(remote, many, out),
        Command::Decisions(decisions) => remote.decisions(decisions, out),
        Command::Erase(erase) => erase::run_at(remote, erase, out),
        _ => unreachable!("the others ask in other ways"),
    }
}

/// Bytes of an answer as the service writes them: what could be anything else is `\\xNN`.
pub fn to_text(bytes: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(shown).collect()
}

/// The bytes of such a text; as it stands if it is none.
fn to_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
        let (byte, after) = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => (b'\\', after),
            (b'\\', [b'x', high, low, after @ ..]) => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'\\', &rest[1..]),
            },
            (byte, after) => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    bytes
}

impl Running {
    fn new(url: &str, ask: &Ask) -> Result<Self, Failure> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            let line = format!("{url} is not an address; write it as http://127.0.0.1:8080/admin");
            return Err(Failure::new(Code::Misused, line));
        }
        let mut headers = Vec::new();
        for line in &ask.url_headers {
            let (name, value) = parse_header(line)
                .map_err(|why| Failure::new(Code::Misused, format!("--url-header: {why}")))?;
            let value = value.to_str().unwrap_or_default().to_owned();
            headers.push((name.to_string(), value));
        }
        if let Ok(value) = std::env::var("ONLYONCE_AUTHORIZATION") {
            headers.push(("authorization".into(), value));
        }
        let config = ureq::Agent::config_builder()
            // The body of an error answer says what is wrong.
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            // Nothing that carries a secret follows to elsewhere.
            .max_redirects(0)
            .user_agent(concat!("onlyonce/", env!("CARGO_PKG_VERSION")));
        let agent = ureq::Agent::new_with_config(config.build());
        let base = format!("{}/api/", url.trim_end_matches('/'));
        Ok(Running { base, headers, agent })
    }

    fn failed(&self, error: impl std::fmt::Display) -> Failure {
        let line = format!(
            "{}: {error}; is the service running, and is its admin service at this address?",
            self.base.trim_end_matches("api/")
        );
        Failure::new(Code::Failed, line)
    }

    fn heard(
        &self,
        answer: Result<http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, Failure> {
        let mut answer = answer.map_err(|error| self.failed(error))?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_string();
        let body = body.map_err(|error| self.failed(error))?;
        let value: Result<Value, _> = serde_json::from_str(&body);
        if status.is_success() {
            return value.map_err(|_| self.failed("the answer is not that of an admin service"));
        }
        refused(status, value.unwrap_or_default(), |error| self.failed(error))
    }

    fn ask(&self, path: &str, parameters: &[(&str, String)]) -> Result<Value, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        for (name, value) in parameters {
            request = request.query(*name, value);
        }
        self.heard(request.call())
    }

    fn change(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request =
            request.header("x-onlyonce-admin", "1").header("content-type", "application/json");
        let request = match path {
            // It lasts as long as reading the whole store.
            "erase" => request.config().timeout_global(None).build(),
            _ => request,
        };
        self.heard(request.send(body.to_string()))
    }
}

/// The failure that an answer of the service means.
pub fn refused(
    status: http::StatusCode,
    value: Value,
    failed: impl FnOnce(String) -> Failure,
) -> Result<Value, Failure> {
    let said = value["error"].as_str().map(visible);
    let forcible = value["needs_force"] == true;
    let (code, next) = match status.as_u16() {
        401 | 403 => {
            (Code::Refused, "; pass credentials by --url-header or $ONLYONCE_AUTHORIZATION")
        }
        404 if said.as_ref().is_some_and(|said| said.contains("this key")) => {
            (Code::NoKey, "; `onlyonce list` shows the keys")
        }
        409 if forcible => (
            Code::Refused,
            "; look at the key again (`onlyonce get`), and add --force if you are sure",
        ),
        409 => (Code::Refused, "; look at the key again: `onlyonce get`"),
        400 => (Code::Misused, ""),
        413 | 422 => (Code::Refused, ""),
        507 => (Code::NoRoom, "; let records expire, or open the store with more capacity"),
        _ => return Err(failed(said.unwrap_or_else(|| status.to_string()))),
    };
    let said = said.unwrap_or_else(|| status.to_string());
    Err(Failure::new(code, format!("{said}{next}")))
}

impl Remote {
    /// Whom the command line names, if it is not a directory.
    pub fn of(ask: &Ask) -> Result<Option<Self>, Failure> {
        match (&ask.url, &ask.table.dsn) {
            (Some(_), Some(_)) => {
                Err(Failure::new(Code::Misused, "--url and --dsn are two stores; name one"))
            }
            (Some(url), None) => Running::new(url, ask).map(Remote::Running).map(Some),
            (None, Some(dsn)) => Here::connect(dsn, &ask.table).map(Remote::Here).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn ask(&self, path: &str, parameters: &[(&str, String)]) -> Result<Value, Failure> {
        match self {
            Remote::Running(service) => service.ask(path, parameters),
            Remote::Here(service) => service.ask(path, parameters),
        }
    }

    pub fn change(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        match self {
            Remote::Running(service) => service.change(path, body),
            Remote::Here(service) => service.change(path, body),
        }
    }

    fn info(&self, out: &mut Out) -> Result<(), Failure> {
        let mut stats = self.ask("stats", &[])?;
        let here = matches!(self, Remote::Here(_));
        if here {
            // What this process has counted is nothing, and its settings are not the service's.
            if let Some(now) = stats["now"].as_object_mut() {
                now.retain(|name, _| !OF_PROCESS.contains(&&**name));
            }
            stats = json!({
                "store": stats["store"], "backend": stats["backend"], "now": stats["now"],
                "durability": stats["durability"], "health": stats["health"],
            });
        }
        if out.json {
            return out.value(&stats);
        }
        for (group, name) in [("now", "now"), ("counts", "counted")] {
            for (what, value) in stats[group].as_object().into_iter().flatten() {
                let value = match (what.ends_with("bytes"), value.as_u64()) {
                    (true, Some(bytes)) => size(bytes),
                    _ => visible(&value.to_string()),
                };
                out.row(name, format_args!("{what}: {value}"))?;
            }
        }
        let troubles: Vec<_> = stats["health"].as_array().into_iter().flatten().collect();
        match troubles.len() {
            0 => out.row("health", format_args!("{GOOD}nothing is wrong{GOOD:#}")),
            _ => troubles.iter().try_for_each(|trouble| {
                let text = trouble.as_str().map_or_else(|| trouble.to_string(), str::to_owned);
                out.row("health", format_args!("{BAD}{}{BAD:#}", visible(&text)))
            }),
        }
    }

    /// The keys in one of these states, page by page, each given to `each`. What can't be listed is
    /// said on stderr (younger keys, by a service that doesn't page), or is an error (damage).
    pub fn keys(
        &self,
        states: &[&str],
        parameters: &[(&str, String)],
        each: &mut dyn FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (mut damaged, mut more) = (0, 0);
        for state in states {
            let mut cursor = Some("0".to_owned());
            while let Some(at) = cursor {
                let from = at.parse().unwrap_or(0);
                let mut parameters = parameters.to_vec();
                parameters.push(("limit", PAGE.to_string()));
                parameters.push(("state", (*state).to_owned()));
                parameters.push(("cursor", at));
                let page = self.ask("keys", &parameters)?;
                let keys: Vec<_> = page["keys"].as_array().into_iter().flatten().collect();
                keys.iter().try_for_each(|key| each(key))?;
                damaged += page["damaged"].as_u64().unwrap_or(0);
                cursor = match &page["next"] {
                    Value::Number(next) => Some(next.to_string()),
                    Value::String(next) => Some(next.clone()),
                    _ => None,
                };
                let total = page["total"].as_u64().filter(|_| cursor.is_none());
                more += total.map_or(0, |total| total.saturating_sub(from + keys.len() as u64));
            }
        }
        if more > 0 {
            // On stderr, so that a program that reads JSON from stdout doesn't miss it.
            let text = many(more, "younger undecided key");
            let hint = "--scope, --prefix and --older-than narrow the list";
            anstream::eprintln!("onlyonce: {text} not listed; {hint}");
        }
        if damaged > 0 {
            let text = many(damaged, "record");
            let line = format!("{text} not readable; `onlyonce verify` on that machine names all");
            return Err(Failure::new(Code::Damaged, line));
        }
        Ok(())
    }

    fn list(&self, list: &List, out: &mut Out) -> Result<(), Failure> {
        let states: &[&str] = match list.state {
            None => &["undecided", "completed"],
            Some(state) => &[state_name(state)],
        };
        let parameters = selection(&list.scope, &list.prefix, list.older_than)?;
        let mut table = Table::default();
        let done = self.keys(states, &parameters, &mut |key| {
            let key = renamed(key);
            match out.json {
                true => out.value(&key),
                false => table.add(row(&key), out),
            }
        });
        if !out.json && (done.is_ok() || !table.is_empty()) {
            table.end(out)?;
        }
        done
    }

    fn decisions(&self, args: &Decisions, out: &mut Out) -> Result<(), Failure> {
        let parameters = selection(&args.scope, &args.prefix, None)?;
        decisions::show_all(self.all_decisions(&parameters)?.into_iter().rev(), out)
    }

    /// The decisions, the newest first, however many pages they take.
    pub fn all_decisions(&self, parameters: &[(&str, String)]) -> Result<Vec<Value>, Failure> {
        let (mut all, mut next) = (Vec::new(), None);
        loop {
            let mut asked = parameters.to_vec();
            asked.extend(next.map(|next: u64| ("before", next.to_string())));
            let mut page = self.ask("decisions", &asked)?;
            if let Value::Array(decisions) = page["decisions"].take() {
                all.extend(decisions);
            }
            next = page["next"].as_u64();
            if next.is_none() {
                return Ok(all);
            }
        }
    }

    /// All that the service knows of a key.
    pub fn look_up(&self, scope: &str, key: &str) -> Result<Value, Failure> {
        parse_scope(scope)?;
        parse_key(key)?;
        let (scope, key) = (scope.to_owned(), key.to_owned());
        self.ask("key", &[("scope", scope), ("key", key)])
    }

    fn get_key(&self, get: &Get, out: &mut Out) -> Result<(), Failure> {
        if get.raw
            && let Remote::Here(here) = self
        {
            return here.raw(&get.named.scope, &get.named.key, out);
        }
        if get.raw {
            let line = "--raw needs the store's directory; the service shows at most 64 KiB";
            return Err(Failure::new(Code::Misused, line));
        }
        let key = self.look_up(&get.named.scope, &get.named.key)?;
        match out.json {
            true => out.value(&renamed(&key)),
            false => show(&key, out),
        }
    }

    fn resolve(&self, args: &Resolve, out: &mut Out) -> Result<(), Failure> {
        let decision = Decision::of(&args.how)?;
        let key =
            self.look_up(&args.named.scope, &args.named.key).map_err(|failure| match failure {
                Failure::Said { code: Code::NoKey, .. } => resolve::absent(args),
                other => other,
            })?;
        if args.seen.is_some_and(|seen| key["token"] != seen.get()) {
            return Err(resolve::another());
        }
        // In flight it is the engine that asks for force.
        let silent = key["state"] == "interrupted" && key["holder_gone"] == false;
        if silent && !args.how.force() {
            let line =
                "its holder is silent, but may be working on it; add --force if you are sure";
            return Err(Failure::new(Code::Refused, line));
        }
        if let Some(why) =
            is_http(&key).and_then(|http| decision.unfit(http, key["state"] == "completed"))
        {
            return Err(resolve::unfit(why));
        }
        self.decide(&key, &args.how, &decision.for_service(), &args.by)?;
        resolve::done(args, out)
    }

    /// Decides about a key that was looked at, unless another attempt has begun since.
    pub fn decide(&self, key: &Value, how: &How, answer: &Value, by: &By) -> Result<(), Failure> {
        let wanted = json!({
            "scope": key["scope"],
            "key": key["key"],
            "token": key["token"],
            "decision": how.name(),
            "force": how.force(),
            "answer": answer,
            "actor": by.actor(),
            "note": by.note,
        });
        let done = self.change("resolve", &wanted)?;
        match done["waits"].as_str() {
            None => Ok(()),
            Some(why) => Err(Failure::new(Code::Refused, visible(why))),
        }
    }
}

/// Whether a key's answers are the HTTP layer's; a service of an older version doesn't
/// say.
pub fn is_http(key: &Value) -> Option<bool> {
    key["layer"].as_str().map(|layer| layer == "http")
}

/// A state as the service calls it.
pub fn state_name(state: Wanted) -> &'static str {
    match state {
        Wanted::InFlight => "in_flight",
        Wanted::Interrupted => "interrupted",
        Wanted::Completed => "completed",
    }
}

/// The parameters that select keys, for the service.
pub fn selection(
    scope: &Option<String>,
    prefix: &Option<String>,
    older_than: Option<Duration>,
) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut parameters = Vec::new();
    if let Some(scope) = scope {
        parse_scope(scope)?;
        parameters.push(("scope", scope.clone()));
    }
    if let Some(prefix) = prefix {
        parse_key(prefix)?;
        parameters.push(("prefix", prefix.clone()));
    }
    if let Some(age) = older_than {
        parameters.push(("older_than_ms", age.as_millis().to_string()));
    }
    Ok(parameters)
}

fn text_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The key with its state as the other commands write it.
fn renamed(key: &Value) -> Value {
    let mut key = key.clone();
    key["state"] = text_of(&key, "state").replace('_', "-").into();
    key
}

fn row(key: &Value) -> Row {
    let state = text_of(key, "state");
    Row {
        style: style_of(state),
        state: visible(state),
        age: span(key["age_ms"].as_u64().unwrap_or(0)),
        attempts: key["attempts"].to_string(),
        scope: visible(text_of(key, "scope")),
        key: visible(text_of(key, "key")),
        more: key["reason"].as_str().map(visible),
    }
}

fn show(key: &Value, out: &mut Out) -> Result<(), Failure> {
    let key = renamed(key);
    for name in ["key", "scope", "state", "reason"] {
        if let Some(text) = key[name].as_str() {
            out.row(name, visible(text))?;
        }
    }
    for name in ["token", "attempts"] {
        out.row(name, &key[name])?;
    }
    out.row("for", span(key["age_ms"].as_u64().unwrap_or(0)))?;
    for (field, name) in [
        ("completed_at_ms", "completed"),
        ("expires_at_ms", "expires"),
        ("interrupted_at_ms", "since"),
    ] {
        if let Some(at) = key[field].as_u64() {
            out.row(name, date(at))?;
        }
    }
    if let Some(http) = is_http(&key) {
        out.row("answers", resolve::read_by(http))?;
    }
    if let Some(checkpoint) = key["checkpoint"].as_str() {
        out.row("checkpoint", visible(checkpoint))?;
    }
    for name in ["head", "answer"] {
        let stored = &key[name];
        if stored.is_null() {
            continue;
        }
        let bytes = size(stored["bytes"].as_u64().unwrap_or(0));
        match (&stored["http"]["status"], stored["sealed"] == true) {
            (_, true) => out.row(name, format_args!("an HTTP answer, sealed ({bytes})"))?,
            (Value::Null, _) => out.row(name, bytes)?,
            (status, _) => out.row(name, format_args!("HTTP {status}"))?,
        }
        for line in stored["http"]["headers"].as_array().into_iter().flatten() {
            let word = |at: usize| visible(line[at].as_str().unwrap_or_default());
            out.line(format_args!("  {}: {}", word(0), word(1)))?;
        }
        match std::str::from_utf8(&to_bytes(text_of(stored, "text"))) {
            Ok("") => {}
            Ok(text) => out.line(visible(text))?,
            Err(_) => out.line(format_args!("{DIM}(not text){DIM:#}"))?,
        }
        if stored["cut"] == true {
            out.line(format_args!("{DIM}(cut: the service shows 64 KiB){DIM:#}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_through_the_service_s_text() {
        for bytes in [&b"order-1"[..], b"a\\b", &[0, 255, 10], "\u{e4}".as_bytes(), b""] {
            assert_eq!(to_bytes(&to_text(bytes)), bytes);
        }
        assert_eq!(to_text(&[0, b'a', b'\\']), "\\x00a\\\\");
        assert_eq!(to_bytes("\\q\\xz"), b"\\q\\xz");
    }
}
