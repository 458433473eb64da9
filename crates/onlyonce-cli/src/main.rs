//! The `onlyonce` command: look at a store, repair it, copy it, move it.
//!
//! Whatever only looks reads the directory without owning it, of a running store too.

mod args;
mod bench;
mod clock;
mod compact;
mod copy;
mod decisions;
mod erase;
mod fail;
mod get;
mod info;
mod item;
mod list;
mod names;
mod out;
mod owner;
mod remote;
mod resolve;
mod resolve_many;
mod table;
mod transfer;
mod units;
mod verify;

use args::{Args, Command};
use clap::{CommandFactory, Parser};
use fail::Failure;
use out::Out;
use remote::Remote;
use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    // clap itself prints help and version on stdout, a misuse (exit code 2) on stderr.
    let args = Args::parse_from(with_store(std::env::args_os().collect()));
    let json = args.json;
    args.color.as_choice().write_global();
    let mut out = Out::new(json);
    let done = run(args, &mut out).and_then(|()| out.finish());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(json),
    }
}

/// The options that say whom to ask.
const ASK: [&str; 6] = ["--url", "--url-header", "--dsn", "--schema", "--table", "--tls-roots"];

/// With `--url` or `--dsn` no STORE is named: a word takes its place, so that the others keep theirs.
/// The options that say whom to ask are the subcommand's, and may be given before it, too.
fn with_store(mut words: Vec<OsString>) -> Vec<OsString> {
    let is = |word: &str, option: &str| {
        word == option || word.strip_prefix(option).is_some_and(|rest| rest.starts_with('='))
    };
    let elsewhere =
        |word: &OsString| word.to_str().is_some_and(|word| is(word, "--url") || is(word, "--dsn"));
    // Not the DSN itself, which may contain a password.
    let place = words.iter().any(elsewhere).then(|| OsString::from("(elsewhere)"));
    let asks = ["info", "list", "get", "resolve", "resolve-many", "decisions", "export", "erase"];
    let at = words.iter().skip(1).position(|word| asks.iter().any(|asked| word == asked));
    let Some(at) = at.map(|at| at + 1) else { return words };
    let mut before: Vec<OsString> = Vec::new();
    let mut moved: Vec<OsString> = Vec::new();
    let mut rest = words.drain(..at);
    while let Some(word) = rest.next() {
        match word.to_str() {
            Some(option) if ASK.contains(&option) => {
                moved.push(word);
                moved.extend(rest.next());
            }
            Some(joined) if ASK.iter().any(|option| is(joined, option)) => moved.push(word),
            _ => before.push(word),
        }
    }
    drop(rest);
    let asked = words.remove(0);
    before.push(asked);
    before.extend(place);
    before.extend(moved);
    before.extend(words);
    before
}

fn run(args: Args, out: &mut Out) -> Result<(), Failure> {
    if let Some(ask) = args.command.ask()
        && let Some(remote) = Remote::of(ask)?
    {
        return remote::run(&remote, &args.command, out);
    }
    match args.command {
        Command::Info(info) => info::run(&info.of, out),
        Command::List(list) => list::run(&list, out),
        Command::Get(get) => get::run(&get, out),
        Command::Resolve(resolve) => resolve::run(&resolve, out),
        Command::ResolveMany(many) => resolve_many::run(&many, out),
        Command::Decisions(decisions) => decisions::run(&decisions, out),
        Command::Erase(erase) => erase::run(&erase, out),
        Command::Verify(of) => verify::run(&of, out),
        Command::Backup(backup) => copy::backup(&backup, out),
        Command::Restore(restore) => copy::restore(&restore, out),
        Command::Salvage(salvage) => copy::salvage(&salvage, out),
        Command::Compact(compact) => compact::run(&compact, out),
        Command::Export(export) => transfer::export(&export, out),
        Command::Import(import) => transfer::import(&import, out),
        Command::AcceptClock(accept) => clock::accept(&accept, out),
        Command::Bench(bench) => bench::run(&bench, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "onlyonce", &mut script);
            out.raw(&script)
        }
    }
}
