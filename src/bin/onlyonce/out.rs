//! Where answers go.

use super::fail::{Code, Failure};
use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use serde_json::Value;
use std::io::{self, BufWriter, Stdout, Write};

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
        writeln!(self.to, "{value}").map_err(unheard)
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

fn unheard(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Unheard,
        _ => Failure::new(Code::Failed, format!("writing the answer: {error}")),
    }
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
