//! `resolve`: an operator decides.

use super::{
    args::{Complete, How, Resolve},
    fail::{Code, Failure},
    names::{parse_key, parse_scope},
    out::Out,
    owner,
    transfer::read_input,
};
use onlyonce::{
    ClaimError, Completion, Durability, KeyRef, Resolution, http::StoredAnswer, inspect::Inspection,
};
use serde_json::json;

/// Room for one more segment.
pub const ROOM: u64 = 64 << 20;

/// The bytes that the operator gives as the answer.
pub fn response_of(complete: &Complete) -> Result<Vec<u8>, Failure> {
    match (&complete.response, &complete.response_file) {
        (Some(text), _) => Ok(text.as_bytes().to_vec()),
        (None, Some(file)) => read_input(file),
        (None, None) => Ok(Vec::new()),
    }
}

/// A decision, with the answer as the store keeps it.
pub struct Decision<'a> {
    how: &'a How,
    head: Vec<u8>,
    response: Vec<u8>,
}

impl<'a> Decision<'a> {
    pub fn of(how: &'a How) -> Result<Self, Failure> {
        let (mut head, mut response) = (Vec::new(), Vec::new());
        if let How::Complete(complete) = how {
            response = response_of(complete)?;
            if let Some(status) = complete.status {
                let headers = complete.headers.iter().cloned().collect();
                (head, response) = StoredAnswer::pack(status, &headers, &response);
            }
        }
        Ok(Decision { how, head, response })
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
    let info = Inspection::open(&args.named.of.store)?.info();
    let store = owner::open(&info, ROOM, Durability::Synced)?;
    let (resolution, force) = (decision.resolution(), args.how.force());
    let decided = match args.seen {
        Some(seen) => store.resolve_seen(key_ref, resolution, force, seen),
        None => store.resolve(key_ref, resolution, force),
    };
    let closed = store.close();
    match decided {
        Err(ClaimError::NotApplicable { state }) if state.starts_with("absent") => {
            return Err(absent(args));
        }
        decided => decided.map_err(refused)?,
    }
    closed?;
    done(args, out)
}

/// Why it is not decided so.
pub fn refused(error: ClaimError) -> Failure {
    match error {
        ClaimError::NotApplicable { state: "completed" } => {
            let line =
                "the key is completed; `forget --force` forgets it, and a retry executes again";
            Failure::new(Code::Refused, line)
        }
        ClaimError::NotApplicable { state } if state.starts_with("not what it was") => another(),
        error => error.into(),
    }
}

/// The operator has seen something else than what is there.
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
            "scope": args.named.scope, "key": args.named.key, "state": became,
        })),
        false => out.line(format_args!("{} is {became}", args.named.key)),
    }
}
