//! Where answers go.

use super::fail::{Code, Failure};
use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use onlyonce::{KeyRef, OpenError, inspect::Inspection, names::is_plain};
use serde_json::Value;
use std::{
    io::{self, BufWriter, IsTerminal, Stdout, Write},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::JoinHandle,
    time::Duration,
};

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const WARN: Style = AnsiColor::Yellow.on_default();
pub const BAD: Style = AnsiColor::Red.on_default();

/// Stdout: text with colours where there is a terminal, or JSON.
pub struct Out {
    to: BufWriter<AutoStream<Stdout>>,
    pub json: bool,
}

impl Out {
    pub fn new(json: bool) -> Self {
        Out { to: BufWriter::new(AutoStream::auto(io::stdout())), json }
    }

    /// A line of text.
    pub fn line(&mut self, line: impl std::fmt::Display) -> Result<(), Failure> {
        writeln!(self.to, "{line}").map_err(unheard)
    }

    /// A line of two columns: what it is, and what it is like.
    pub fn row(&mut self, name: &str, value: impl std::fmt::Display) -> Result<(), Failure> {
        self.line(format_args!("{BOLD}{name:<11}{BOLD:#} {value}"))
    }

    /// A JSON value on a line of its own.
    pub fn value(&mut self, value: &Value) -> Result<(), Failure> {
        writeln!(self.to, "{}", escaped(value)).map_err(unheard)
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.flush().map_err(unheard)?;
        // Past the stream that would take colours out.
        io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()).map_err(unheard)
    }

    pub fn finish(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(unheard)
    }
}

/// JSON that is safe to be shown: what can't be seen, or would rule a terminal (also one that takes
/// the characters from U+0080 on for the beginning of a sequence), is written as `\\u`.
pub fn escaped(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().all(is_plain) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_plain(c) {
            true => safe.push(c),
            // Beyond ASCII there are only the contents of strings.
            false => {
                let units = &mut [0; 2];
                for unit in c.encode_utf16(units) {
                    safe += &format!("\\u{unit:04x}");
                }
            }
        }
    }
    safe
}

fn unheard(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Unheard,
        _ => Failure::new(Code::Failed, format!("writing the answer: {error}")),
    }
}

/// Says on stderr, if that is a terminal, what is being done, once it has taken a second. Ends when
/// dropped.
pub struct Busy(indicatif::ProgressBar, Option<(Sender<()>, JoinHandle<()>)>);

impl Busy {
    pub fn with(what: &'static str) -> Self {
        let bar = indicatif::ProgressBar::hidden();
        if !io::stderr().is_terminal() {
            return Busy(bar, None);
        }
        let (done, wait) = mpsc::channel();
        let shown = bar.clone();
        let thread = std::thread::spawn(move || {
            if wait.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let style = indicatif::ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
            shown.set_style(style.expect("the template is right"));
            shown.set_message(what);
            shown.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            shown.enable_steady_tick(Duration::from_millis(200));
        });
        Busy(bar, Some((done, thread)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.1.take() {
            drop(done);
            let _ = thread.join();
        }
        self.0.finish_and_clear();
    }
}

/// Reads a store from outside, which may take a while.
pub fn inspect(store: &Path) -> Result<Inspection, OpenError> {
    let _busy = Busy::with("reading the store");
    Inspection::open(store)
}

/// Reads of a store what is about one key.
pub fn inspect_key(store: &Path, key: KeyRef<'_>) -> Result<Inspection, OpenError> {
    let _busy = Busy::with("reading the store");
    Inspection::open_key(store, key)
}

/// A progress bar on stderr, if that is a terminal.
pub fn progress(total: u64) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(total);
    let style = indicatif::ProgressStyle::with_template(
        "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
    );
    bar.set_style(style.expect("the template is right"));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_rules_no_terminal_and_means_the_same() {
        let text = "a\u{9b}31m\u{202e}\u{e0001}\u{7f}\u{1b}[0m \u{e4} \u{1f600}\n";
        let value = serde_json::json!({ "key": text });
        let line = escaped(&value);
        assert!(line.chars().all(is_plain), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
        assert!(line.contains('\u{e4}'), "what can be seen stays: {line}");
    }
}
