//! `resolve-many`: one decision about many keys, in one opening.

use super::{
    args::{How, ResolveMany, Wanted, Why},
    fail::{Code, Failure},
    item::since,
    list::told,
    names::{parse_key, parse_scope, show_key, show_scope, visible},
    out::{BAD, DIM, Out, WARN, inspect},
    owner,
    remote::{self, Remote},
    resolve::{self, Decision},
    transfer::read_input,
    units::{count, many, span},
};
use onlyonce::{
    Durability, KeyRef, Reason, ResolveOptions, State, Token,
    decisions::By,
    inspect::{Inspection, Item},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// So many decisions wait for the same sync. A service refuses more than sixteen requests at once.
const AT_ONCE: usize = 64;
const AT_ONCE_REMOTE: usize = 8;
/// So many keys are shown of many.
const SAMPLE: usize = 10;
/// The largest size of a record without its answer.
const FRAME: u64 = 2048;

/// A key that is decided about, as it was when it was selected.
#[derive(Clone)]
struct Target {
    scope: String,
    key: String,
    token: u64,
    state: Wanted,
    age_ms: u64,
    reason: Option<String>,
    /// No holder can be working on it.
    holder_gone: bool,
    /// Its answers are the HTTP layer's, as far as it is known.
    http: Option<bool>,
}

type Name = (String, String);

impl Target {
    fn name(&self) -> Name {
        (self.scope.clone(), self.key.clone())
    }

    fn of_item(item: &Item, now: u64) -> Self {
        let key = item.entry.key.as_ref();
        let (state, reason, holder_gone) = match &item.entry.state {
            State::InFlight { .. } => (Wanted::InFlight, None, false),
            State::Interrupted { reason, holder_gone, .. } => {
                (Wanted::Interrupted, Some(reason.to_string()), *holder_gone)
            }
            _ => (Wanted::Completed, None, true),
        };
        Target {
            scope: show_scope(key.scope()),
            key: show_key(key.key()),
            token: item.entry.token.get(),
            state,
            age_ms: now.saturating_sub(since(item)),
            reason,
            holder_gone,
            http: Some(resolve::is_http(&item.entry)),
        }
    }

    /// Out of the service's answer.
    fn of_value(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let state = match value["state"].as_str()? {
            "in_flight" => Wanted::InFlight,
            "interrupted" => Wanted::Interrupted,
            _ => Wanted::Completed,
        };
        Some(Target {
            scope: text("scope")?,
            key: text("key")?,
            token: value["token"].as_u64()?,
            state,
            age_ms: value["age_ms"].as_u64()?,
            reason: text("reason"),
            holder_gone: value["holder_gone"].as_bool().unwrap_or(state == Wanted::Completed),
            http: remote::is_http(value),
        })
    }

    /// Why the key would be left alone, as far as that is known before the try.
    fn refused(&self, how: &How, decision: &Decision<'_>) -> Option<&'static str> {
        let undecided = self.state != Wanted::Completed;
        match how {
            _ if undecided && !self.holder_gone && !how.force() => {
                Some("its holder may be working on it (--force decides all the same)")
            }
            How::Complete(_) if !undecided => Some("it is already completed, and keeps its answer"),
            How::Free { .. } if !undecided => {
                Some("it is completed; `forget --force` forgets it, and a retry executes again")
            }
            How::Forget { force: false } if !undecided => {
                Some("it is completed (--force forgets it, and a retry executes again)")
            }
            How::Replace(_) if undecided => {
                Some("it has no answer to replace: `complete` gives it one")
            }
            _ => self.http.and_then(|http| decision.unfit(http, !undecided)),
        }
    }
}

/// Which keys are asked for.
struct Wish<'a> {
    args: &'a ResolveMany,
    decision: &'a Decision<'a>,
    scope: Option<String>,
    prefix: Vec<u8>,
    state: Option<Wanted>,
    reason: Option<String>,
    /// With `--keys`: the names, and the tokens that they had.
    named: Option<Vec<(Name, Option<u64>)>>,
}

impl<'a> Wish<'a> {
    fn of(args: &'a ResolveMany, decision: &'a Decision<'a>) -> Result<Self, Failure> {
        let narrowed = args.scope.is_some() || args.prefix.is_some() || args.older_than.is_some();
        if !(narrowed || args.keys.is_some() || args.state.is_some() || args.reason.is_some()) {
            let line = "which keys? name them by --keys, --state, --scope, --prefix, --older-than or \
                        --reason";
            return Err(Failure::new(Code::Misused, line));
        }
        let scope = args.scope.as_deref().map(parse_scope).transpose()?;
        let prefix = args.prefix.as_deref().map(parse_key).transpose()?.unwrap_or_default();
        let reason = args.reason.map(|why| {
            let reason = match why {
                Why::Dropped => Reason::Dropped,
                Why::Panicked => Reason::Panicked,
                Why::Crashed => Reason::Crashed,
                Why::LeasePassed => Reason::LeasePassed,
                Why::GivenBack => Reason::GivenBack,
                Why::Failed => Reason::Failed,
            };
            reason.to_string()
        });
        let named = match &args.keys {
            Some(file) => {
                let text = String::from_utf8(read_input(file)?);
                let text = text.map_err(|_| Failure::new(Code::Misused, "--keys: not UTF-8"))?;
                Some(named(&text)?)
            }
            None => None,
        };
        // Of keys that are named one by one, all are meant.
        let usual = match args.how {
            How::Replace(_) => Wanted::Completed,
            _ => Wanted::Interrupted,
        };
        let state = args.state.or(named.is_none().then_some(usual));
        let scope = scope.map(|scope| show_scope(scope.as_bytes()));
        Ok(Wish { args, decision, scope, prefix, state, reason, named })
    }

    fn has(&self, target: &Target) -> bool {
        let older_than = self.args.older_than.map_or(0, |time| time.as_millis() as u64);
        self.state.is_none_or(|state| state == target.state)
            && self.scope.as_ref().is_none_or(|scope| *scope == target.scope)
            && parse_key(&target.key).is_ok_and(|key| key.starts_with(&self.prefix))
            && self.reason.as_ref().is_none_or(|why| Some(why) == target.reason.as_ref())
            && target.age_ms >= older_than
    }
}

/// The lines of `--keys`. Every one must be understood before anything is decided.
fn named(text: &str) -> Result<Vec<(Name, Option<u64>)>, Failure> {
    let mut named = Vec::new();
    let mut known = HashSet::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |why: String| {
            let number = number + 1;
            let line = format!("--keys, line {number}: {why}; nothing was changed");
            Failure::new(Code::Misused, line)
        };
        let said = |failure| match failure {
            Failure::Said { line, .. } => bad(line),
            unheard => unheard,
        };
        let value: Value =
            serde_json::from_str(line).map_err(|error| bad(format!("not JSON: {error}")))?;
        let (Some(scope), Some(key)) = (value["scope"].as_str(), value["key"].as_str()) else {
            return Err(bad("scope or key is missing, as `list --json` prints them".into()));
        };
        let scope = show_scope(parse_scope(scope).map_err(said)?.as_bytes());
        let key = show_key(&parse_key(key).map_err(said)?);
        let name = (scope, key);
        if known.insert(name.clone()) {
            named.push((name, value["token"].as_u64()));
        }
    }
    Ok(named)
}

/// The keys to decide, and those that are left alone, with the reasons.
#[derive(Default)]
struct Plan {
    targets: Vec<Target>,
    refused: Vec<(Name, String)>,
}

impl Plan {
    fn add(&mut self, target: Target, wish: &Wish<'_>) {
        match target.refused(&wish.args.how, wish.decision) {
            None => self.targets.push(target),
            Some(why) => self.refused.push((target.name(), why.to_owned())),
        }
    }

    /// A key that was named, and what is there of it.
    fn add_named(
        &mut self,
        wish: &Wish<'_>,
        name: Name,
        token: Option<u64>,
        found: Option<Target>,
    ) {
        match found {
            None => self.refused.push((name, "nothing is known of it".to_owned())),
            Some(target) if token.is_some_and(|token| token != target.token) => {
                self.refused.push((name, ANOTHER.to_owned()));
            }
            Some(target) if wish.has(&target) => self.add(target, wish),
            Some(_) => {}
        }
    }
}

const ANOTHER: &str = "another attempt has been made since it was listed";

/// In a directory.
pub fn run(args: &ResolveMany, out: &mut Out) -> Result<(), Failure> {
    let decision = Decision::of(&args.how)?;
    let wish = Wish::of(args, &decision)?;
    let inspection = inspect(&args.of.store)?;
    let info = inspection.info();
    let plan = select(&wish, &inspection, info.now_ms)?;
    drop(inspection);
    if !args.yes {
        if let Some(process) = info.owner {
            anstream::eprintln!(
                "onlyonce: process {process} has the store open, and its undecided keys are shown in \
                 flight; ask its admin service with --url"
            );
        }
        return preview(&plan, &args.how, out);
    }
    // One that is open is in use, whatever is seen of it.
    if plan.targets.is_empty() && info.owner.is_none() {
        return report(plan, &[], &args.how, out);
    }
    let room = plan.targets.len() as u64 * (decision.len() + FRAME);
    let store = owner::open(&info, resolve::ROOM + room, Durability::Synced)?;
    let actor = args.by.actor();
    let by = By { actor: &actor, note: &args.by.note };
    let outcomes = decide_all(&plan.targets, AT_ONCE, |target| {
        let (scope, key) = (parse_scope(&target.scope)?, parse_key(&target.key)?);
        let key = KeyRef::new(&scope, &key).expect("it was listed");
        let seen = Token::new(target.token).expect("it was listed");
        store
            .resolve_with(
                key,
                decision.resolution(),
                ResolveOptions::new().force(args.how.force()).seen(seen).by(by),
            )
            .map_err(resolve::refused)
    });
    let closed = store.close();
    let reported = report(plan, &outcomes, &args.how, out);
    closed?;
    reported
}

fn select(wish: &Wish<'_>, inspection: &Inspection, now: u64) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let undecided = inspection.undecided().map(|item| Target::of_item(&item, now));
    if let Some(named) = &wish.named {
        let undecided: HashMap<Name, Target> = undecided.map(|t| (t.name(), t)).collect();
        for (name, token) in named {
            let found = match undecided.get(name) {
                Some(target) => Some(target.clone()),
                None => {
                    let (scope, key) = (parse_scope(&name.0)?, parse_key(&name.1)?);
                    let key = KeyRef::new(&scope, &key).expect("parsed");
                    inspection.get(key)?.map(|item| Target::of_item(&item, now))
                }
            };
            plan.add_named(wish, name.clone(), *token, found);
        }
        return Ok(plan);
    }
    if wish.state != Some(Wanted::Completed) {
        undecided.filter(|t| wish.has(t)).for_each(|target| plan.add(target, wish));
        return Ok(plan);
    }
    let mut damaged = inspection.problems().to_vec();
    for item in inspection.items() {
        match item.map(|item| Target::of_item(&item, now)) {
            Ok(target) if wish.has(&target) => plan.add(target, wish),
            Ok(_) => {}
            Err(problem) => damaged.push(problem),
        }
    }
    told(&wish.args.of.store, &damaged)?;
    Ok(plan)
}

/// By the admin service of a running store.
pub fn run_at(service: &Remote, args: &ResolveMany, out: &mut Out) -> Result<(), Failure> {
    let decision = Decision::of(&args.how)?;
    let wish = Wish::of(args, &decision)?;
    let answer = decision.for_service();
    let mut plan = Plan::default();
    match &wish.named {
        Some(named) => {
            let found = decide_all(named, AT_ONCE_REMOTE, |((scope, key), _)| {
                match service.look_up(scope, key) {
                    Ok(value) => Ok(Target::of_value(&value)),
                    Err(Failure::Said { code: Code::NoKey, .. }) => Ok(None),
                    Err(other) => Err(other),
                }
            });
            for ((name, token), found) in named.iter().zip(found) {
                plan.add_named(&wish, name.clone(), *token, found?);
            }
        }
        None => {
            let state = [remote::state_name(wish.state.expect("set where none are named"))];
            let parameters = remote::selection(&args.scope, &args.prefix, args.older_than)?;
            let mut known = HashSet::new();
            service.keys(&state, &parameters, &mut |value| {
                let target = Target::of_value(value);
                if let Some(target) = target.filter(|target| wish.has(target))
                    && known.insert(target.name())
                {
                    plan.add(target, &wish);
                }
                Ok(())
            })?;
        }
    }
    if !args.yes {
        return preview(&plan, &args.how, out);
    }
    let outcomes = decide_all(&plan.targets, AT_ONCE_REMOTE, |target| {
        let key = json!({ "scope": target.scope, "key": target.key, "token": target.token });
        service.decide(&key, &args.how, &answer, &args.by)
    });
    report(plan, &outcomes, &args.how, out)
}

/// Does something for each, on several threads, and shows the progress.
fn decide_all<T: Sync, R: Send>(
    all: &[T],
    threads: usize,
    decide: impl Fn(&T) -> Result<R, Failure> + Sync,
) -> Vec<Result<R, Failure>> {
    let bar = indicatif::ProgressBar::new(all.len() as u64);
    let style = "{bar:40} {pos} of {len} keys, {eta} left";
    bar.set_style(indicatif::ProgressStyle::with_template(style).expect("the template is right"));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = all.get(at) else { return done };
            done.push((at, decide(one)));
            bar.inc(1);
        }
    };
    let mut done: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(all.len())).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|t| t.join().expect("it doesn't panic")).collect()
    });
    bar.finish_and_clear();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Prints what would be done.
fn preview(plan: &Plan, how: &How, out: &mut Out) -> Result<(), Failure> {
    let (targets, refused) = (&plan.targets, &plan.refused);
    if out.json {
        let sample = targets.iter().take(SAMPLE).map(|target| {
            json!({
                "scope": target.scope, "key": target.key, "token": target.token,
                "age_ms": target.age_ms, "reason": target.reason,
            })
        });
        let sample: Vec<_> = sample.collect();
        return out.value(&json!({
            "dry_run": true, "decision": how.name(), "would_decide": targets.len(),
            "would_refuse": refused.len(), "why": why_object(refused), "sample": sample,
        }));
    }
    let keys = many(targets.len() as u64, "key");
    out.line(format_args!("{keys} would become {}", how.becomes()))?;
    for target in targets.iter().take(SAMPLE) {
        let age = span(target.age_ms);
        let why = target.reason.as_ref().map(|why| format!("  ({})", visible(why)));
        let (scope, key) = (visible(&target.scope), visible(&target.key));
        out.line(format_args!("{age:>8}  {scope} {key}{DIM}{}{DIM:#}", why.unwrap_or_default()))?;
    }
    if targets.len() > SAMPLE {
        let more = count((targets.len() - SAMPLE) as u64);
        out.line(format_args!("{DIM}and {more} more{DIM:#}"))?;
    }
    let left = refused.iter().map(|(name, why)| (name, &**why));
    why_lines(left, "would be left alone", out)?;
    out.line(format_args!("{WARN}nothing was changed{WARN:#}; --yes does it"))
}

/// Prints what was done. An error if a key was left alone.
fn report(
    plan: Plan,
    outcomes: &[Result<(), Failure>],
    how: &How,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut refused = plan.refused;
    for (target, outcome) in plan.targets.iter().zip(outcomes) {
        match outcome {
            Ok(()) => {}
            Err(Failure::Said { line, .. }) => refused.push((target.name(), line.clone())),
            Err(Failure::Unheard) => return Err(Failure::Unheard),
        }
    }
    let all = plan.targets.len() as u64;
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count() as u64;
    let decided = all - failed;
    if out.json {
        for ((scope, key), why) in &refused {
            out.value(&json!({ "scope": scope, "key": key, "refused": why }))?;
        }
        out.value(&json!({
            "dry_run": false, "decision": how.name(), "decided": decided,
            "refused": refused.len(), "why": why_object(&refused),
        }))?;
    } else {
        let keys = many(decided, "key");
        let verb = if decided == 1 { "is" } else { "are" };
        out.line(format_args!("{keys} {verb} {}", how.becomes()))?;
        let left = refused.iter().map(|(name, why)| (name, &**why));
        why_lines(left, "left alone", out)?;
    }
    out.finish()?;
    match refused.len() as u64 {
        0 => Ok(()),
        left => {
            let line = format!("{} left alone", many(left, "key"));
            Err(Failure::new(Code::Refused, line))
        }
    }
}

fn why_object(refused: &[(Name, String)]) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    refused.iter().for_each(|(_, why)| *counts.entry(&**why).or_default() += 1);
    counts
}

/// The reasons, each with its number of keys and some of them.
fn why_lines<'a>(
    refused: impl Iterator<Item = (&'a Name, &'a str)>,
    what: &str,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut reasons: BTreeMap<&str, Vec<&Name>> = BTreeMap::new();
    refused.for_each(|(name, why)| reasons.entry(why).or_default().push(name));
    for (why, names) in reasons {
        let keys = many(names.len() as u64, "key");
        out.line(format_args!("{BAD}{keys} {what}{BAD:#}: {}", visible(why)))?;
        for (scope, key) in names.iter().take(SAMPLE) {
            out.line(format_args!("          {} {}", visible(scope), visible(key)))?;
        }
        if names.len() > SAMPLE {
            let more = count((names.len() - SAMPLE) as u64);
            out.line(format_args!("{DIM}          and {more} more{DIM:#}"))?;
        }
    }
    Ok(())
}
