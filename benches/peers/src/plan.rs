//! What is to be run.

use crate::engines::{Contender, Mode, Name};
use std::{path::PathBuf, process::exit, time::Duration};

const HELP: &str = "\
The same work by onlyonce and by embedded databases that could be used for it.

    cargo run --release -- [OPTIONS]

    --quick           one round of short turns, a tenth of the records: some minutes
    --engines A,B     of: onlyonce rocksdb lmdb redb fjall sqlite map map+crc (all)
    --forms A,B       of: alone writer (both)
    --modes A,B       of: synced completions buffered; sync is short for the first two (all)
    --callers N,M     how many threads at a time (1,2,8,32,64)
    --parts A,B       of: pairs reads (both)
    --rounds N        (3)
    --turn MS         how long each engine works in each round (1500)
    --records N       how many there are for the reads and the reopening (1000000)
    --dir DIR         for the stores: on the disk that you want to know about
                      (beside this program)
    --json FILE       (peers.json beside this program)
";

pub struct Plan {
    pub contenders: Vec<Contender>,
    pub modes: Vec<Mode>,
    pub callers: Vec<usize>,
    pub pairs: bool,
    pub reads: bool,
    pub rounds: usize,
    pub turn: Duration,
    pub records: u64,
    pub dir: PathBuf,
    pub json: PathBuf,
}

impl Plan {
    /// Ends the program if it was asked for what there isn't.
    pub fn from_args() -> Plan {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let (quick, args): (Vec<_>, Vec<_>) = args.into_iter().partition(|arg| arg == "--quick");
        let mut plan = Plan::new(!quick.is_empty());
        for pair in args.chunks(2) {
            match pair {
                [option, value] => plan.set(option, value),
                other => stop(&format!("{other:?}: no such option")),
            }
        }
        plan
    }

    fn new(quick: bool) -> Plan {
        let program = std::env::current_exe().expect("a program");
        let beside = program.parent().expect("in a folder");
        Plan {
            contenders: Contender::all(),
            modes: Mode::ALL.to_vec(),
            callers: if quick { vec![1, 2, 8, 64] } else { vec![1, 2, 8, 32, 64] },
            pairs: true,
            reads: true,
            rounds: if quick { 1 } else { 3 },
            turn: Duration::from_millis(if quick { 250 } else { 1500 }),
            records: if quick { 100_000 } else { 1_000_000 },
            dir: beside.join("stores"),
            json: beside.join("peers.json"),
        }
    }

    fn set(&mut self, option: &str, value: &str) {
        match option {
            "--engines" => {
                let wanted = list(value, |word| named(word, Name::ALL, Name::name));
                if let Some(missing) = wanted.iter().find(|name| !name.is_built()) {
                    stop(&format!("{} is a feature that this was built without", missing.name()));
                }
                self.contenders.retain(|contender| wanted.contains(&contender.engine));
            }
            "--forms" => {
                let behind = list(value, |word| match word {
                    "alone" => Some(false),
                    "writer" => Some(true),
                    _ => None,
                });
                self.contenders.retain(|contender| behind.contains(&contender.behind_writer));
            }
            "--modes" => {
                let modes = list(value, |word| match word {
                    "sync" => Some(vec![Mode::Synced, Mode::Completions]),
                    word => named(word, Mode::ALL, Mode::name).map(|mode| vec![mode]),
                });
                self.modes = modes.concat();
            }
            "--callers" => self.callers = list(value, |word| word.parse().ok()),
            "--parts" => {
                let parts = list(value, |word| named(word, ["pairs", "reads"], |part| part));
                (self.pairs, self.reads) = (parts.contains(&"pairs"), parts.contains(&"reads"));
            }
            "--rounds" => self.rounds = number(value) as usize,
            "--turn" => self.turn = Duration::from_millis(number(value)),
            "--records" => self.records = number(value),
            "--dir" => self.dir = value.into(),
            "--json" => self.json = value.into(),
            _ => stop(&format!("{option}: no such option")),
        }
    }
}

fn named<T: Copy, const N: usize>(
    word: &str,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Option<T> {
    all.into_iter().find(|one| name(*one) == word)
}

fn list<T>(value: &str, of: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let one = |word| of(word).unwrap_or_else(|| stop(&format!("{word}: not known")));
    value.split(',').map(one).collect()
}

/// At least one.
fn number(value: &str) -> u64 {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.unwrap_or_else(|| stop(&format!("{value}: not a number")))
}

fn stop(why: &str) -> ! {
    eprintln!("{why}\n\n{HELP}");
    exit(2)
}
