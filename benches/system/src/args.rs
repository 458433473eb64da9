//! Arguments of the form `--name value` and `--flag`.

use std::{collections::BTreeMap, process::exit};

pub struct Args {
    help: &'static str,
    values: BTreeMap<String, String>,
    flags: Vec<String>,
}

impl Args {
    /// Ends the program with `help` if there is an argument that isn't one of these names.
    pub fn read(help: &'static str, names: &[&str], flags: &[&str]) -> Args {
        let mut args = Args { help, values: BTreeMap::new(), flags: Vec::new() };
        let mut given = std::env::args().skip(1);
        while let Some(arg) = given.next() {
            if flags.contains(&arg.as_str()) {
                args.flags.push(arg);
            } else if names.contains(&arg.as_str()) {
                let value = given.next().unwrap_or_else(|| args.stop(&format!("{arg} what?")));
                args.values.insert(arg, value);
            } else {
                args.stop(&format!("{arg}: no such option"));
            }
        }
        args
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A number of at least one.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        let Some(text) = self.text(name) else { return default };
        let number = text.parse().ok().filter(|number| *number > 0);
        number.unwrap_or_else(|| self.stop(&format!("{name} {text}: not a number")))
    }

    pub fn stop(&self, why: &str) -> ! {
        eprintln!("{why}\n\n{}", self.help);
        exit(2)
    }
}
