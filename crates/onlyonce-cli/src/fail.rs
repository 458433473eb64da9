//! How a command fails: one line that says what to do next, and an exit code.

use super::out::escaped;
use onlyonce::{
    BeginError, ClaimError, Full, OpenError, StoreError, backup::BackupError, inspect::Problem,
};
use serde_json::json;
use std::{fmt::Display, io, process::ExitCode};

/// The exit codes. 2 is clap's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Failed = 1,
    Misused = 2,
    NoStore = 3,
    Foreign = 4,
    Damaged = 5,
    InUse = 6,
    Newer = 7,
    NoKey = 8,
    Refused = 9,
    NoRoom = 10,
}

#[derive(Debug)]
pub enum Failure {
    /// One line.
    Said { code: Code, line: String },
    /// The reader of the output has closed it.
    Unheard,
}

impl Failure {
    pub fn new(code: Code, line: impl Into<String>) -> Self {
        Failure::Said { code, line: line.into() }
    }

    pub fn io(doing: impl Display) -> impl FnOnce(io::Error) -> Failure {
        let doing = doing.to_string();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull => {
                let line = format!("{doing}: {error}; make room and try again");
                Failure::new(Code::NoRoom, line)
            }
            _ => Failure::new(Code::Failed, format!("{doing}: {error}")),
        }
    }

    /// Prints the failure, and returns the exit code.
    pub fn tell(self, json: bool) -> ExitCode {
        let Failure::Said { code, line } = self else { return ExitCode::SUCCESS };
        // One line, whatever an operating system or a file's name has put into it.
        let line = line.replace('\n', " ");
        if json {
            eprintln!("{}", escaped(&json!({ "error": line, "code": code as u8 })));
        } else {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{style}onlyonce:{style:#} {line}");
        }
        ExitCode::from(code as u8)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let (code, line) = match &error {
            OpenError::NoStore { .. } => (Code::NoStore, error.to_string()),
            OpenError::NotAStore { .. } => (Code::Foreign, error.to_string()),
            OpenError::Foreign { file } => {
                let line = format!(
                    "{file} belongs to another store or place; put back the store's own file, or \
                     copy what is left with `onlyonce salvage`"
                );
                (Code::Foreign, line)
            }
            OpenError::Damaged { file, offset, what } => {
                let line = format!(
                    "{file} is damaged at byte {offset}: {what}; `onlyonce verify` names all \
                     damage, `onlyonce restore` brings back a backup, `onlyonce salvage` copies \
                     what can be read"
                );
                (Code::Damaged, line)
            }
            OpenError::Missing { file } => {
                let line = format!(
                    "{file} is missing; put it back, `onlyonce restore` a backup, or `onlyonce \
                     salvage` what is left"
                );
                (Code::Damaged, line)
            }
            OpenError::InUse { place, owner } => {
                let who = match owner {
                    Some(owner) => format!("process {owner}"),
                    None => "a process".into(),
                };
                let line = format!(
                    "{place} is in use: {who} has the store open; stop it first, or ask its admin \
                     service with --url (info, list, get, verify, backup and export work \
                     on an open store)"
                );
                (Code::InUse, line)
            }
            OpenError::Newer { file, found, known } => {
                let line = format!(
                    "{file} has format {found}, and this onlyonce knows up to {known}; use a newer \
                     onlyonce"
                );
                (Code::Newer, line)
            }
            OpenError::NoSpace { .. } => (Code::NoRoom, error.to_string()),
            OpenError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    (Code::Failed, format!("{error}; run as the user who owns the store"))
                }
                io::ErrorKind::NotADirectory => {
                    (Code::NoStore, format!("{error}; name the directory of a store"))
                }
                io::ErrorKind::StorageFull => (Code::NoRoom, format!("{error}; make room")),
                _ => (Code::Failed, error.to_string()),
            },
            _ => (Code::Failed, error.to_string()),
        };
        Failure::new(code, line)
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let code = match &error {
            BackupError::Open(open) => return Failure::from(open.clone()),
            BackupError::NotEmpty { .. } => Code::Refused,
            BackupError::OtherStore { .. } => Code::Foreign,
            BackupError::Unfinished { what, .. } if what.contains("newer version") => Code::Newer,
            BackupError::Unfinished { .. }
            | BackupError::Damaged(_)
            | BackupError::Changed { .. } => Code::Damaged,
            BackupError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Code::NoRoom
            }
            _ => Code::Failed,
        };
        let next = match &error {
            BackupError::Changed { .. } => "; restore another backup",
            BackupError::OtherStore { .. } => "; name a backup of this store, or make a full one",
            BackupError::Io { .. } => "; remove what was written, and try again",
            _ => "",
        };
        Failure::new(code, format!("{error}{next}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NeedsForce { state } => {
                return Failure::new(Code::Refused, format!("the key is {state}; add --force"));
            }
            StoreError::AlreadyCompleted => {
                let line = "the key is already completed: see `onlyonce get`; `resolve ... replace` \
                            changes its answer";
                return Failure::new(Code::Refused, line);
            }
            StoreError::StoreFull(full) => {
                let next = match full {
                    Full::Disk => "free some, or let records expire",
                    Full::Claims => "decide some, or open it with larger max_claims",
                    _ => "let records expire, or open it with more capacity",
                };
                return Failure::new(Code::NoRoom, format!("{error}; {next}"));
            }
            StoreError::Damaged { .. } => {
                let line = "the key's record is damaged; `onlyonce verify` says where, and `onlyonce \
                            restore` brings back a backup";
                return Failure::new(Code::Damaged, line);
            }
            StoreError::NotApplicable { .. }
            | StoreError::ResponseTooLarge { .. }
            | StoreError::TooLong { .. } => Code::Refused,
            _ => Code::Failed,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<ClaimError> for Failure {
    fn from(error: ClaimError) -> Self {
        StoreError::from(error).into()
    }
}

impl From<BeginError> for Failure {
    fn from(error: BeginError) -> Self {
        let code = match &error {
            BeginError::StoreFull(_) => Code::NoRoom,
            BeginError::Damaged { .. } => Code::Damaged,
            _ => Code::Failed,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let line = format!("{problem}; `onlyonce verify` names all damage");
        Failure::new(Code::Damaged, line)
    }
}
