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
const ROOM: u64 = 64 << 20;

/// The bytes that the operator gives as the answer.
pub fn response_of(complete: &Complete) -> Result<Vec<u8>, Failure> {
    match (&complete.response, &complete.response_file) {
        (Some(text), _) => Ok(text.as_bytes().to_vec()),
        (None, Some(file)) => read_input(file),
        (None, None) => Ok(Vec::new()),
    }
}

pub fn run(args: &Resolve, out: &mut Out) -> Result<(), Failure> {
    let (scope, key) = (parse_scope(&args.named.scope)?, parse_key(&args.named.key)?);
    let key_ref = KeyRef::new(&scope, &key).expect("parsed");
    let (mut response, mut head) = (Vec::new(), Vec::new());
    if let How::Complete(complete) = &args.how {
        response = response_of(complete)?;
        if let Some(status) = complete.status {
            let headers = complete.headers.iter().cloned().collect();
            (head, response) = StoredAnswer::pack(status, &headers, &response);
        }
    }
    let completion = Completion { response: Some(&response), head: &head, retention: None };
    let (resolution, force) = match &args.how {
        How::Complete(complete) => {
            (Resolution::Complete { fingerprint: None, completion }, complete.force)
        }
        How::Free { force } => (Resolution::Free, *force),
        How::Forget { force } => (Resolution::Forget, *force),
    };
    let info = Inspection::open(&args.named.of.store)?.info();
    let store = owner::open(&info, ROOM, Durability::Synced)?;
    let decided = store.resolve(key_ref, resolution, force);
    let closed = store.close();
    match decided {
        Err(ClaimError::NotApplicable { state }) if state.starts_with("absent") => {
            return Err(absent(args));
        }
        Err(ClaimError::NotApplicable { state: "completed" }) => {
            let line =
                "the key is completed; `forget --force` forgets it, and a retry executes again";
            return Err(Failure::new(Code::Refused, line));
        }
        decided => decided?,
    }
    closed?;
    done(args, out)
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
    let became = match &args.how {
        How::Complete(_) => "completed",
        How::Free { .. } => "free",
        How::Forget { .. } => "forgotten",
    };
    match out.json {
        true => out.value(&json!({
            "scope": args.named.scope, "key": args.named.key, "state": became,
        })),
        false => out.line(format_args!("{} is {became}", args.named.key)),
    }
}
