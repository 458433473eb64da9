//! `resolve`: an operator decides.

use super::{
    args::{Answer, Header, How, Layer, Resolve},
    fail::{Code, Failure},
    names::{parse_key, parse_scope},
    out::{Out, inspect_key},
    owner,
    remote::to_text,
    transfer::read_input,
};
use onlyonce::{
    Completion, Durability, Entry, KeyRef, Resolution, ResolveOptions, State, StoreError,
    decisions::By, http::StoredAnswer,
};
use serde_json::{Value, json};

/// Room for one more segment.
pub const ROOM: u64 = 64 << 20;

/// The bytes that the operator gives as the answer.
fn response_of(answer: &Answer) -> Result<Vec<u8>, Failure> {
    match (&answer.response, &answer.response_file) {
        (Some(text), _) => Ok(text.as_bytes().to_vec()),
        (None, Some(file)) => read_input(file),
        (None, None) => Ok(Vec::new()),
    }
}

/// A decision, with the answer as it is given and as the store keeps it.
pub struct Decision<'a> {
    how: &'a How,
    given: Vec<u8>,
    head: Vec<u8>,
    response: Vec<u8>,
}

impl<'a> Decision<'a> {
    pub fn of(how: &'a How) -> Result<Self, Failure> {
        let (mut given, mut head, mut response) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(answer) = how.answer() {
            given = response_of(answer)?;
            response.clone_from(&given);
            if let Some(status) = answer.status {
                let headers = answer.headers.iter().cloned().collect();
                if let Some(why) = StoredAnswer::unfit(status, &headers, &given) {
                    let line = format!("this answer can't be replayed: {why}");
                    return Err(Failure::new(Code::Misused, line));
                }
                (head, response) = StoredAnswer::pack(status, &headers, &given);
            }
        }
        Ok(Decision { how, given, head, response })
    }

    /// Why a key whose answers are the HTTP layer's, or are not, can't be decided so: its retries
    /// would get what they can't read. A decision that doesn't fit the state is refused for that.
    pub fn unfit(&self, http: bool, completed: bool) -> Option<&'static str> {
        let answer = self.how.answer()?;
        if completed != matches!(self.how, How::Replace(_)) {
            return None;
        }
        let http = answer.layer.map_or(http, |layer| layer == Layer::Http);
        match (http, answer.status) {
            (true, None) if StoredAnswer::read(&self.given).is_none() => Some(
                "its answers are the HTTP layer's, which can't replay these bytes: every retry would \
                 get a 500; add --status, as in --status 201 (or --layer own, if the service has its \
                 own code for them)",
            ),
            (false, Some(_)) => Some(
                "its answers are read by the service's own code, and not by the HTTP layer: leave out \
                 --status (or add --layer http, if the layer has scheme 0)",
            ),
            _ => None,
        }
    }

    /// The answer in the form of the admin API.
    pub fn for_service(&self) -> Value {
        let Some(given) = self.how.answer() else { return Value::Null };
        let mut answer = json!({ "text": to_text(&self.given) });
        if let Some(layer) = given.layer {
            answer["layer"] = (if layer == Layer::Http { "http" } else { "own" }).into();
        }
        if let Some(status) = given.status {
            let line = |(name, value): &Header| json!([name.as_str(), to_text(value.as_bytes())]);
            let headers: Vec<_> = given.headers.iter().map(line).collect();
            answer["http"] = json!({ "status": status.as_u16(), "headers": headers });
        }
        answer
    }

    pub fn resolution(&self) -> Resolution<'_> {
        match self.how {
            How::Complete(_) => {
                let response = Some(&*self.response);
                let completion = Completion { response, head: &self.head, retention: None };
                Resolution::Complete { fingerprint: None, completion }
            }
            How::Free { .. } => Resolution::Free,
            How::Forget { .. } => Resolution::Forget,
            How::Replace(_) => {
                Resolution::Replace { head: &self.head, response: Some(&self.response) }
            }
        }
    }

    /// How much a record of it takes beside its key, roughly.
    pub fn len(&self) -> u64 {
        (self.head.len() + self.response.len()) as u64
    }
}

pub fn run(args: &Resolve, out: &mut Out) -> Result<(), Failure> {
    let (scope, key) = (parse_scope(&args.named.scope)?, parse_key(&args.named.key)?);
    let key_ref = KeyRef::new(&scope, &key).expect("parsed");
    let decision = Decision::of(&args.how)?;
    let inspection = inspect_key(&args.named.of.store, key_ref)?;
    // What doesn't read, the opened store says.
    if let Ok(Some(item)) = inspection.get(key_ref)
        && let completed = matches!(item.entry.state, State::Completed(_))
        && let Some(why) = decision.unfit(is_http(&item.entry), completed)
    {
        return Err(unfit(why));
    }
    let info = inspection.info();
    drop(inspection);
    let store = owner::open(&info, ROOM, Durability::Synced)?;
    let (resolution, force) = (decision.resolution(), args.how.force());
    let actor = args.by.actor();
    let by = By { actor: &actor, note: &args.by.note };
    let decided = store.resolve_with(
        key_ref,
        resolution,
        ResolveOptions::new().force(force).seen(args.seen).by(by),
    );
    let closed = store.close();
    match decided {
        Err(StoreError::NotApplicable { state }) if state.starts_with("absent") => {
            return Err(absent(args));
        }
        decided => decided.map_err(refused)?,
    }
    closed?;
    done(args, out)
}

/// Whether a key's answers are the HTTP layer's. An answer that the layer can't read, on a key of
/// it, is one to be replaced.
pub fn is_http(entry: &Entry) -> bool {
    StoredAnswer::is_of(entry)
        || matches!(entry.state, State::Completed(_)) && entry.fingerprint.scheme() != 0
}

/// Why it is not decided so.
pub fn refused(error: StoreError) -> Failure {
    match error {
        StoreError::NotApplicable { state: "completed" } => {
            let line =
                "the key is completed; `forget --force` forgets it, and a retry executes again";
            Failure::new(Code::Refused, line)
        }
        StoreError::NotApplicable { state: "not completed" } => {
            let line = "the key has no answer to replace: `complete` gives it one";
            Failure::new(Code::Refused, line)
        }
        StoreError::NotApplicable { state } if state.starts_with("not what it was") => another(),
        error => error.into(),
    }
}

/// Who reads the answer of an undecided key.
pub fn read_by(http: bool) -> &'static str {
    match http {
        true => "replayed by the HTTP layer: complete it with --status",
        false => "read by the service's own code",
    }
}

/// The refusal of an answer that the key's retries could not be given.
pub fn unfit(why: &str) -> Failure {
    Failure::new(Code::Refused, format!("the key is as it was: {why}"))
}

/// The refusal of a `--seen` token that is not the last attempt's.
pub fn another() -> Failure {
    let line = "another attempt has been made since this token was seen; look at the key again: \
                `onlyonce get`";
    Failure::new(Code::Refused, line)
}

/// There is no such key.
pub fn absent(args: &Resolve) -> Failure {
    let line = format!(
        "no key {} in scope {}; `onlyonce list` shows the keys, and `onlyonce import` adds one that is \
         missing",
        args.named.key, args.named.scope
    );
    Failure::new(Code::NoKey, line)
}

/// It is decided.
pub fn done(args: &Resolve, out: &mut Out) -> Result<(), Failure> {
    let became = args.how.becomes();
    match out.json {
        true => out.value(&json!({
            "scope": args.named.scope, "key": args.named.key,
            "state": became.split(',').next(),
        })),
        false => out.line(format_args!("{} is {became}", args.named.key)),
    }
}
