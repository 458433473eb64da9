//! The command line.

use super::units::parse_duration;
use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use onlyonce::Token;
use std::{path::PathBuf, time::Duration};

const SCOPES: &str = "\
SCOPE is the scope that the service uses:
  a/b/c        parts, as in Scope::of([\"a\", \"b\", \"c\"]); with the HTTP layer, the principal
  =text        exactly these bytes, as in Scope::new(\"text\")
  hex:0a0b     exactly these bytes
  -            the empty scope, Scope::global()
KEY is text, or hex:0a0b. `list` prints both in a form that can be given back.";

const CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no store there; 4 files of another store;
5 damaged; 6 in use; 7 written by a newer version; 8 no such key; 9 refused; 10 no space.";

/// Inspects, repairs, copies and moves an onlyonce store.
#[derive(Parser)]
#[command(name = "onlyonce", version, after_help = CODES, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    /// Answer in JSON: one object, or one object a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// Colours: on terminals, always, or never.
    #[arg(long, global = true, value_enum, default_value = "auto")]
    pub color: Color,
}

/// Whom to ask, if not the store's directory.
#[derive(Group)]
pub struct Ask {
    /// Ask the admin service of a running store at this address, instead of naming STORE:
    /// http://127.0.0.1:8080/admin.
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// A line to send to it, as "Authorization: Bearer ...". May be given several times.
    /// $ONLYONCE_AUTHORIZATION is sent as Authorization, and is not seen by other users.
    #[arg(long = "url-header", global = true, value_name = "LINE")]
    pub url_headers: Vec<String>,
    #[command(flatten)]
    pub table: Table,
}

/// A store in PostgreSQL.
#[derive(Group)]
pub struct Table {
    /// Ask the store in this PostgreSQL database, instead of naming STORE: "host=db1,db2 user=shop
    /// dbname=shop", or a URL. With - it is $ONLYONCE_DSN, which other users of the machine don't
    /// see.
    #[arg(long, global = true, value_name = "DSN", allow_hyphen_values = true)]
    pub dsn: Option<String>,
    /// The schema that has the store's table.
    #[arg(long, global = true, value_name = "NAME", default_value = "public")]
    pub schema: String,
    /// The store's table.
    #[arg(long, global = true, value_name = "NAME", default_value = "onlyonce")]
    pub table: String,
    /// The authorities that certify the servers, in a file (PEM). Connections have TLS then.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_roots: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    pub fn as_choice(self) -> anstream::ColorChoice {
        match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Shows sizes, keys by state, the format, and which process has the store open.
    Info(Info),
    /// Lists the keys, undecided ones first.
    List(List),
    /// Shows everything that is known of one key.
    Get(Get),
    /// Decides what became of a key, in a store that is not open (or, with --url, in one that is).
    Resolve(Resolve),
    /// Decides about many keys in one opening. Without --yes it only says which these would be.
    ResolveMany(ResolveMany),
    /// Lists what operators have decided: who, when, why, and what was there before.
    Decisions(Decisions),
    /// Forgets all keys of a scope and the decisions about them, and overwrites what the store's files
    /// have of them; also in a running store (--url). Without --yes it only says how many there are.
    Erase(Erase),
    /// Reads everything and compares it with its checksums.
    Verify(Of),
    /// Copies a store to a new directory; the store may be open.
    Backup(Backup),
    /// Makes a store from a backup (and the earlier ones that it needs), checking everything.
    Restore(FromTo),
    /// Copies what can be read of a damaged store to a new directory.
    Salvage(FromTo),
    /// Copies a store that is not open to a new one, with other sizes and without what has expired.
    Compact(Compact),
    /// Writes all keys as JSON lines to stdout.
    Export(Export),
    /// Reads keys from JSON lines into a store that is not open.
    Import(Import),
    /// Accepts the wall clock for a store that doesn't believe it (see `info`) and is not open.
    AcceptClock(AcceptClock),
    /// Measures this disk and this machine: a sync, claims, replays.
    Bench(Bench),
    /// Writes a completion script for a shell to stdout.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whom to ask, where a running store can be asked.
    pub fn ask(&self) -> Option<&Ask> {
        match self {
            Command::Info(info) => Some(&info.ask),
            Command::List(list) => Some(&list.ask),
            Command::Get(get) => Some(&get.ask),
            Command::Resolve(resolve) => Some(&resolve.ask),
            Command::ResolveMany(many) => Some(&many.ask),
            Command::Decisions(decisions) => Some(&decisions.ask),
            Command::Erase(erase) => Some(&erase.ask),
            _ => None,
        }
    }
}

/// Who decides, and why.
#[derive(Group)]
pub struct By {
    /// Who decides; without it the name of the user who runs the command. A service that knows its
    /// users keeps what it knows.
    #[arg(long = "as", global = true, value_name = "NAME")]
    pub actor: Option<String>,
    /// Why, for the record of the decision: a ticket, what was found.
    #[arg(long, global = true, default_value = "", hide_default_value = true)]
    pub note: String,
}

impl By {
    pub fn actor(&self) -> String {
        let user = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
        self.actor.clone().or_else(|| user().ok()).unwrap_or_default()
    }
}

#[derive(Group)]
#[command(after_help = SCOPES)]
pub struct Decisions {
    #[command(flatten)]
    pub of: Of,
    #[command(flatten)]
    pub ask: Ask,
    /// Only about keys of this scope.
    #[arg(long, allow_hyphen_values = true)]
    pub scope: Option<String>,
    /// Only about keys that begin with this.
    #[arg(long)]
    pub prefix: Option<String>,
}

#[derive(Group)]
pub struct Export {
    #[command(flatten)]
    pub of: Of,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Group)]
#[command(after_help = SCOPES)]
pub struct Erase {
    #[command(flatten)]
    pub of: Of,
    #[command(flatten)]
    pub ask: Ask,
    #[command(flatten)]
    pub by: By,
    /// The scope.
    #[arg(long, allow_hyphen_values = true)]
    pub scope: String,
    /// Also keys that a holder is working on; it is then fenced.
    #[arg(long)]
    pub force: bool,
    /// Erase. Without it nothing is changed.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Group)]
pub struct Info {
    #[command(flatten)]
    pub of: Of,
    #[command(flatten)]
    pub ask: Ask,
}

#[derive(Group)]
pub struct Of {
    /// The store's directory.
    #[arg(value_name = "STORE")]
    pub store: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    InFlight,
    Interrupted,
    Completed,
}

#[derive(Group)]
#[command(after_help = SCOPES)]
pub struct List {
    #[command(flatten)]
    pub of: Of,
    #[command(flatten)]
    pub ask: Ask,
    /// Only keys in this state.
    #[arg(long, value_enum)]
    pub state: Option<Wanted>,
    /// Only keys of this scope.
    #[arg(long, allow_hyphen_values = true)]
    pub scope: Option<String>,
    /// Only keys that begin with this.
    #[arg(long)]
    pub prefix: Option<String>,
    /// Only keys that have been in their state for longer than this: 90s, 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub older_than: Option<Duration>,
}

#[derive(Group)]
pub struct Named {
    #[command(flatten)]
    pub of: Of,
    /// The key's scope.
    #[arg(allow_hyphen_values = true)]
    pub scope: String,
    /// The key.
    #[arg(allow_hyphen_values = true)]
    pub key: String,
}

#[derive(Group)]
#[command(after_help = SCOPES)]
pub struct Get {
    #[command(flatten)]
    pub named: Named,
    #[command(flatten)]
    pub ask: Ask,
    /// Write the response as it is stored, and nothing else.
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
}

#[derive(Group)]
#[command(after_help = SCOPES)]
pub struct Resolve {
    #[command(flatten)]
    pub named: Named,
    #[command(flatten)]
    pub ask: Ask,
    #[command(flatten)]
    pub by: By,
    /// Only if the key's last attempt is still the one with this token, which `get` prints. Without
    /// it another attempt may have had an effect since you looked.
    #[arg(long, global = true, value_name = "TOKEN", value_parser = parse_token)]
    pub seen: Option<Token>,
    #[command(subcommand)]
    pub how: How,
}

const MANY: &str = "\
Selected are the keys that all of --keys, --state, --scope, --prefix, --older-than and --reason name; \
one of these is needed. A key is decided about only if it is still the attempt that was selected, and \
left alone while its holder may live, unless --force is given. The options may come before or after \
the decision:
  onlyonce resolve-many STORE --state interrupted --reason crashed free
  onlyonce resolve-many STORE --keys chosen.jsonl complete --status 201 --response '{}' --yes";

/// Why a key is interrupted.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Why {
    Dropped,
    Panicked,
    Crashed,
    LeasePassed,
    GivenBack,
    Failed,
}

#[derive(Group)]
#[command(after_help = SCOPES, after_long_help = format!("{MANY}\n\n{SCOPES}"))]
pub struct ResolveMany {
    #[command(flatten)]
    pub of: Of,
    #[command(flatten)]
    pub ask: Ask,
    #[command(flatten)]
    pub by: By,
    /// Only keys that are in this file, a line each as `list --json` prints them; - for stdin.
    #[arg(long, global = true, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Only keys in this state. Without --keys the interrupted ones.
    #[arg(long, global = true, value_enum)]
    pub state: Option<Wanted>,
    /// Only keys of this scope.
    #[arg(long, global = true, allow_hyphen_values = true)]
    pub scope: Option<String>,
    /// Only keys that begin with this.
    #[arg(long, global = true)]
    pub prefix: Option<String>,
    /// Only keys that have been in their state for longer than this: 90s, 15m, 2h, 7d.
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration)]
    pub older_than: Option<Duration>,
    /// Only keys that are interrupted for this reason.
    #[arg(long, global = true, value_enum)]
    pub reason: Option<Why>,
    /// Decide. Without it nothing is changed: the keys are counted, and the first ten shown.
    #[arg(long, global = true)]
    pub yes: bool,
    #[command(subcommand)]
    pub how: How,
}

#[derive(Subcommand)]
pub enum How {
    /// The operation took effect, and this is its answer.
    Complete(Complete),
    /// The operation did not take effect: frees the key.
    Free {
        /// In a running store: also if a holder may be working on it; it is then fenced.
        #[arg(long)]
        force: bool,
    },
    /// Forgets the key, as if it had never been used.
    Forget {
        /// Needed for a completed key, because a retry then executes again.
        #[arg(long)]
        force: bool,
    },
    /// The key is completed with a wrong answer: its retries get this one from now on. What the
    /// key's request was, and when it expires, stays.
    Replace(Answer),
}

impl How {
    /// What the operator says of keys that would be left alone otherwise.
    pub fn force(&self) -> bool {
        match self {
            How::Complete(complete) => complete.force,
            How::Free { force } | How::Forget { force } => *force,
            How::Replace(_) => false,
        }
    }

    /// The answer that the operator gives.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            How::Complete(Complete { answer, .. }) | How::Replace(answer) => Some(answer),
            How::Free { .. } | How::Forget { .. } => None,
        }
    }

    /// The decision's name in the admin API.
    pub fn name(&self) -> &'static str {
        match self {
            How::Complete(_) => "complete",
            How::Free { .. } => "free",
            How::Forget { .. } => "forget",
            How::Replace(_) => "replace",
        }
    }

    /// The state of a key after it.
    pub fn becomes(&self) -> &'static str {
        match self {
            How::Complete(_) => "completed",
            How::Free { .. } => "free",
            How::Forget { .. } => "forgotten",
            How::Replace(_) => "completed, with this answer",
        }
    }
}

#[derive(Group)]
pub struct Complete {
    #[command(flatten)]
    pub answer: Answer,
    /// In a running store: also if a holder may be working on it; it is then fenced.
    #[arg(long)]
    pub force: bool,
}

#[derive(Group)]
pub struct Answer {
    /// The answer, as text.
    #[arg(long, required_unless_present = "response_file", conflicts_with = "response_file")]
    pub response: Option<String>,
    /// A file with the answer; - for stdin.
    #[arg(long, value_name = "FILE")]
    pub response_file: Option<PathBuf>,
    /// Store it as the HTTP layer does, with this status. Needed for keys of the layer.
    #[arg(long, value_name = "CODE", value_parser = parse_status)]
    pub status: Option<http::StatusCode>,
    /// A header of the answer, as "Location: /orders/1". May be given several times.
    #[arg(long = "header", value_name = "LINE", requires = "status", value_parser = parse_header)]
    pub headers: Vec<Header>,
    /// Who reads the answer: the HTTP layer, or the service's own code. Needed only where the key
    /// doesn't tell: a scheme of its own without the layer, or the layer with scheme 0.
    #[arg(long, value_enum)]
    pub layer: Option<Layer>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layer {
    Http,
    Own,
}

pub type Header = (http::HeaderName, http::HeaderValue);

fn parse_token(text: &str) -> Result<Token, String> {
    let number = text.parse().map_err(|_| "a token is the number that `get` prints".to_owned())?;
    Token::new(number).ok_or("tokens begin with 1".into())
}

fn parse_status(text: &str) -> Result<http::StatusCode, String> {
    text.parse().map_err(|_| "a status is a number from 100 to 999".to_owned())
}

pub fn parse_header(line: &str) -> Result<Header, String> {
    let bad = || "write it as \"Name: value\"".to_owned();
    let (name, value) = line.split_once(':').ok_or_else(bad)?;
    Ok((name.trim().parse().map_err(|_| bad())?, value.trim().parse().map_err(|_| bad())?))
}

#[derive(Group)]
pub struct FromTo {
    /// The directory to read.
    pub from: PathBuf,
    /// The directory to write: empty, or not there yet.
    pub to: PathBuf,
}

#[derive(Group)]
pub struct Backup {
    #[command(flatten)]
    pub from_to: FromTo,
    /// Leave out segments that have not changed since this backup.
    #[arg(long, value_name = "EARLIER")]
    pub since: Option<PathBuf>,
    /// Copy even where blocks could be shared with the store.
    #[arg(long)]
    pub no_share: bool,
}

const COMPACT: &str = "\
The new store has all keys with their remaining times, attempts, checkpoints and answers, under higher \
tokens, and the decisions. Start the service with NEW afterwards, and never again with STORE. How \
large it may become (capacity) is an option of the service, at each opening; a larger max_claims is, \
too.";

#[derive(Group)]
#[command(after_help = COMPACT)]
pub struct Compact {
    #[command(flatten)]
    pub of: Of,
    /// The new store's directory: empty, or not there yet.
    #[arg(value_name = "NEW")]
    pub to: PathBuf,
    /// Leave out all keys of this scope, and the decisions about them: nothing of them is in the new
    /// store. Their retries execute again. May be given several times.
    #[arg(long, value_name = "SCOPE", allow_hyphen_values = true)]
    pub without_scope: Vec<String>,
    /// How many keys can be undecided at a time. As many as before unless set.
    #[arg(long, value_name = "NUMBER")]
    pub max_claims: Option<u32>,
    /// The size of the ring: 4194304, 16MiB. As before unless set; at least four of the largest
    /// answers.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub ring: Option<u64>,
    /// The largest answer that the new store is to have room for. Unless set, what fits the ring.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub max_response: Option<u64>,
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .expect("the last one always fits");
    let number = number.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    number.ok_or_else(|| "write it as 4194304, 4096KiB, 4MiB or 1GiB".into())
}

#[derive(Group)]
pub struct Import {
    #[command(flatten)]
    pub of: Of,
    /// The file with JSON lines; - for stdin.
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// Create the store if there is none.
    #[arg(long)]
    pub create: bool,
}

#[derive(Group)]
pub struct AcceptClock {
    #[command(flatten)]
    pub of: Of,
    #[command(flatten)]
    pub how: Accept,
}

#[derive(Group)]
#[group(required = true, multiple = false)]
pub struct Accept {
    /// Move all times in the store by the difference: a record that had an hour left still has an
    /// hour left. For a store from a machine without a clock, and while clients still retry.
    #[arg(long)]
    pub keep_windows: bool,
    /// Treat the difference as time that has passed: what would have expired expires at once, and
    /// a retry of it executes again.
    #[arg(long)]
    pub expire: bool,
}

#[derive(Group)]
pub struct Bench {
    /// A directory on the disk to be measured. Everything that is written there is removed.
    #[arg(default_value = ".")]
    pub directory: PathBuf,
    /// The duration of each measurement.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub seconds: f64,
    /// The number of concurrent callers, in the rows with many callers.
    #[arg(long, default_value_t = 32)]
    pub callers: usize,
}
