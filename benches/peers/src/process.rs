//! The other end of a child.

use crate::{
    child::{Ask, CHILD, Child, Opened},
    engines::{Contender, Mode},
};
use serde::de::DeserializeOwned;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{self, ChildStdin, ChildStdout, Command, Stdio},
};

/// A process with an engine in it; killed when this is dropped.
pub struct Process {
    pub contender: Contender,
    pub opened: Opened,
    process: process::Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Opens what lies in `dir`.
    pub fn start(contender: Contender, mode: Mode, dir: &Path, lasting: bool) -> Process {
        let child = Child { contender, mode, dir: dir.into(), lasting };
        let mut process = Command::new(std::env::current_exe().expect("a program"))
            .arg(CHILD)
            .arg(serde_json::to_string(&child).expect("serializable"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let stdin = process.stdin.take().expect("piped");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        let opened = answer(contender, &mut stdout);
        Process { contender, opened, process, stdin, stdout }
    }

    pub fn ask<T: DeserializeOwned>(&mut self, ask: &Ask) -> T {
        let mut line = serde_json::to_vec(ask).expect("serializable");
        line.push(b'\n');
        self.stdin.write_all(&line).expect("the child lives");
        answer(self.contender, &mut self.stdout)
    }
}

impl Drop for Process {
    /// As `kill -9` does.
    fn drop(&mut self) {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        assert!(killed.is_ok() || std::thread::panicking(), "a child that can't be killed");
    }
}

fn answer<T: DeserializeOwned>(contender: Contender, stdout: &mut BufReader<ChildStdout>) -> T {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("the child lives");
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("{contender} ended: {line:?}"))
}

/// An empty directory, gone with this.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(base: &Path, contender: Contender) -> Folder {
        let path = base.join(contender.to_string().replace(' ', ""));
        // Left by a run that was stopped.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory for a store");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
