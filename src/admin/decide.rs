//! Changes: an operator decides about a key, or drains the store.

use super::{
    Config,
    answer::Refusal,
    keys::{bytes_of, is_http, key_of},
};
use crate::{
    decisions::By,
    engine::entries::State,
    engine::resolve::{Resolution, ResolveOptions},
    error::StoreError,
    http::StoredAnswer,
    names,
    observe::events,
    operate::Operated,
    spi::{Completion, Erased},
    token::Token,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};

fn object(content: &[u8]) -> Result<Value, Refusal> {
    let value: Value = serde_json::from_slice(content)
        .map_err(|error| Refusal::bad(format!("the body is not JSON: {error}")))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(Refusal::bad("the body is not a JSON object")),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    value[name].as_str().ok_or_else(|| Refusal::bad(format!("{name} is missing: a string")))
}

/// `POST api/resolve`. `token` is the one that the operator has looked at: if another attempt has
/// begun since, nothing is done.
pub(super) fn resolve(
    store: &dyn Operated,
    config: &Config,
    content: &[u8],
    actor: Option<&str>,
) -> Result<(StatusCode, Value), Refusal> {
    let asked = object(content)?;
    let key = key_of(text(&asked, "scope")?, text(&asked, "key")?)?;
    let seen = asked["token"].as_u64().and_then(Token::new);
    let seen = seen.ok_or_else(|| {
        Refusal::bad("token is missing: the token that the key had when it was looked at")
    })?;
    let options = ResolveOptions::new().force(forced(&asked)?).seen(seen);
    let (actor, note) = said(config, &asked, actor)?;
    let answer = Answer::of(&asked["answer"]);
    let resolution = match text(&asked, "decision")? {
        "free" => Resolution::Free,
        "forget" => Resolution::Forget,
        how @ ("complete" | "replace") => {
            let answer = answer?;
            let replaces = how == "replace";
            // A decision that doesn't fit the state is refused for that.
            if let Ok(Some(entry)) = store.get(key.as_ref())
                && matches!(entry.state, State::Completed(_)) == replaces
            {
                answer.fits(is_http(&entry))?;
            }
            if replaces {
                let (head, response) = (&*answer.head, Some(&*answer.response));
                let replace = Resolution::Replace { head, response };
                let options = options.by(By { actor: &actor, note });
                return decided(store.resolve_with(key.as_ref(), replace, options));
            }
            let (head, response) = (&answer.head, Some(&*answer.response));
            let completion = Completion { head, response, ..Completion::default() };
            let done = Resolution::Complete { fingerprint: None, completion };
            let options = options.by(By { actor: &actor, note });
            return decided(store.resolve_with(key.as_ref(), done, options));
        }
        _ => return Err(Refusal::bad("decision must be complete, replace, free or forget")),
    };
    let about = (key.scope().to_vec(), Some((key.key().to_vec(), seen)));
    let what = (about, text(&asked, "decision")?.to_owned());
    let actor = match config.second(&what, &actor, store.now_ms())? {
        Second::Agrees(both) => both,
        Second::Awaited => return Ok(awaited()),
    };
    let options = options.by(By { actor: &actor, note });
    decided(store.resolve_with(key.as_ref(), resolution, options))
}

fn forced(asked: &Value) -> Result<bool, Refusal> {
    match &asked["force"] {
        Value::Null => Ok(false),
        Value::Bool(force) => Ok(*force),
        _ => Err(Refusal::bad("force must be true or false")),
    }
}

/// Who decides, and why.
fn said<'a>(
    config: &Config,
    asked: &'a Value,
    actor: Option<&str>,
) -> Result<(String, &'a str), Refusal> {
    let said = |name: &str| asked[name].as_str().unwrap_or_default();
    let note = said("note");
    if config.note_required && note.trim().is_empty() {
        return Err(Refusal::bad("note is missing: why is it decided so?"));
    }
    Ok((actor.unwrap_or_else(|| said("actor")).to_owned(), note))
}

fn awaited() -> (StatusCode, Value) {
    let waits = "nothing is decided yet: a second person has to decide the same within an hour";
    (StatusCode::ACCEPTED, json!({ "done": false, "waits": waits }))
}

/// `POST api/erase`: forgets all keys of a scope, and overwrites them. Who did so and why is told by
/// an event, and kept nowhere.
pub(super) fn erase(
    store: &dyn Operated,
    config: &Config,
    content: &[u8],
    actor: Option<&str>,
) -> Result<(StatusCode, Value), Refusal> {
    let asked = object(content)?;
    let named = text(&asked, "scope")?;
    let scope = names::parse_scope(named).map_err(Refusal::bad)?;
    if asked["confirm"] != named {
        return Err(Refusal::bad("confirm is missing: the scope once more"));
    }
    let force = forced(&asked)?;
    let (actor, note) = said(config, &asked, actor)?;
    let what = ((scope.as_bytes().to_vec(), None), "erase".to_owned());
    let actor = match config.second(&what, &actor, store.now_ms())? {
        Second::Agrees(both) => both,
        Second::Awaited => return Ok(awaited()),
    };
    match store.erase_scope(&scope, force) {
        Ok(erased) => {
            let Erased { keys, decisions, held } = erased;
            events::erased(keys, decisions, held, &actor, note);
            let told = json!({ "keys": keys, "decisions": decisions, "held": held });
            Ok((StatusCode::OK, told))
        }
        Err(error) => decided(Err(error)),
    }
}

/// Decisions of one person that wait for a second: of which key and attempt, or of all of a scope, and
/// of which kind; by whom, and when.
pub(super) type Proposed = HashMap<What, (String, u64)>;
type What = ((Vec<u8>, Option<(Vec<u8>, Token)>), String);

/// So long a decision waits.
const WAITS_MS: u64 = 3_600_000;
/// So many wait at a time.
const PROPOSED: usize = 10_000;

enum Second {
    /// Nothing is awaited (any more); who has decided.
    Agrees(String),
    Awaited,
}

impl Config {
    /// Whether a decision that can execute again has its second person.
    fn second(&self, what: &What, actor: &str, now_ms: u64) -> Result<Second, Refusal> {
        if !self.second_person {
            return Ok(Second::Agrees(actor.to_owned()));
        }
        if actor.is_empty() {
            return Err(Refusal::bad("actor is missing: who decides?"));
        }
        let mut proposed = self.proposed.lock();
        proposed.retain(|_, (_, at)| at.saturating_add(WAITS_MS) > now_ms);
        match proposed.get(what) {
            Some((first, _)) if first != actor => {
                let both = format!("{first}, {actor}");
                proposed.remove(what);
                Ok(Second::Agrees(both))
            }
            None if proposed.len() >= PROPOSED => {
                let why = "too many decisions wait for a second person";
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why))
            }
            _ => {
                proposed.insert(what.clone(), (actor.to_owned(), now_ms));
                Ok(Second::Awaited)
            }
        }
    }
}

fn decided(result: Result<(), StoreError>) -> Result<(StatusCode, Value), Refusal> {
    let Err(error) = result else {
        return Ok((StatusCode::OK, json!({ "done": true })));
    };
    let status = match &error {
        StoreError::NeedsForce { .. }
        | StoreError::NotApplicable { .. }
        | StoreError::AlreadyCompleted => StatusCode::CONFLICT,
        StoreError::ResponseTooLarge { .. } | StoreError::TooLong { .. } => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        StoreError::StoreFull(_) => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Poisoned | StoreError::Closed | StoreError::Unavailable { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let refusal = Refusal::new(status, error.to_string());
    Err(match error {
        StoreError::NeedsForce { .. } => refusal.forcible(),
        _ => refusal,
    })
}

/// The answer that an operator gives, as the store keeps it.
struct Answer {
    head: Vec<u8>,
    response: Vec<u8>,
    /// Whether it was given as an HTTP answer.
    http: bool,
    /// Whether the HTTP layer can read it.
    stored: bool,
    /// Whether the key's answers are the HTTP layer's, if the operator says so.
    layer: Option<bool>,
}

impl Answer {
    /// `{"text": ...}` for bytes; with `"http": {"status", "headers": [[name, value]]}` what the
    /// HTTP layer replays.
    fn of(value: &Value) -> Result<Self, Refusal> {
        let body = bytes_of(text(value, "text")?, "answer")?;
        let layer = match &value["layer"] {
            Value::Null => None,
            layer if layer == "http" => Some(true),
            layer if layer == "own" => Some(false),
            _ => return Err(Refusal::bad("answer.layer must be http or own")),
        };
        let http = &value["http"];
        if http.is_null() {
            // An answer that a look-up has returned may come back as it is.
            let stored = StoredAnswer::read(&body).is_some();
            return Ok(Answer { head: Vec::new(), response: body, http: false, stored, layer });
        }
        let status = http["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.ok_or_else(|| Refusal::bad("http.status is not a status"))?;
        let mut headers = HeaderMap::new();
        for line in http["headers"].as_array().into_iter().flatten() {
            let (name, value) = header(line)
                .ok_or_else(|| Refusal::bad(format!("http.headers: {line} is not a header")))?;
            headers.append(name, value);
        }
        if let Some(why) = StoredAnswer::unfit(status, &headers, &body) {
            return Err(Refusal::bad(format!("this answer can't be replayed: {why}")));
        }
        let (head, response) = StoredAnswer::pack(status, &headers, &body);
        Ok(Answer { head, response, http: true, stored: true, layer })
    }

    /// An error if the key's callers could not read it: every retry would fail.
    fn fits(&self, http: bool) -> Result<(), Refusal> {
        let why = match self.layer.unwrap_or(http) {
            true if !self.stored => {
                "the key's answers are the HTTP layer's, which can't replay these bytes: every retry \
                 would get a 500; add \"http\" with a status (or \"layer\": \"own\", if the service \
                 has its own code for them)"
            }
            false if self.http => {
                "the key's answers are read by the service's own code, and not by the HTTP layer: \
                 leave out \"http\" (or add \"layer\": \"http\", if the layer has scheme 0)"
            }
            _ => return Ok(()),
        };
        Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, why))
    }
}

fn header(line: &Value) -> Option<(HeaderName, HeaderValue)> {
    let [name, value] = line.as_array()?.as_slice() else { return None };
    let value = crate::names::escape::bytes(value.as_str()?)?;
    Some((name.as_str()?.parse().ok()?, HeaderValue::from_bytes(&value).ok()?))
}

/// `POST api/drain`: no more claims; waits for those that are held.
pub(super) fn drain(store: &dyn Operated, content: &[u8]) -> Result<Value, Refusal> {
    const LONGEST_MS: u64 = 60_000;
    let asked = object(content)?;
    if asked["confirm"] != "drain" {
        let why = "\"confirm\": \"drain\" is missing; only opening the store again undoes a drain";
        return Err(Refusal::bad(why));
    }
    let at_most = asked["at_most_ms"].as_u64().unwrap_or(0).min(LONGEST_MS);
    match store.drain(Duration::from_millis(at_most)) {
        Some(left) => Ok(json!({ "left": left })),
        None => {
            let why = "a store in a table is not drained here: stop the service that claims";
            Err(Refusal::new(StatusCode::CONFLICT, why))
        }
    }
}
