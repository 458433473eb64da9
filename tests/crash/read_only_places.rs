//! A place that becomes read-only under a running store: what the store can't write it doesn't
//! acknowledge, what it has is still answered, and nothing that was acknowledged is lost.

use crate::common::*;
use onlyonce::*;
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn options() -> Options {
    small(&ManualClock::at(T0)).segment_bytes(64 << 10).capacity(1 << 20)
}

fn name(number: usize) -> String {
    format!("key-{number}")
}

/// Completes keys until there is no room; returns how many.
fn fill(store: &Store, from: usize) -> usize {
    for number in from..from + 10_000 {
        match store.begin(key(&name(number)), print()) {
            Ok(Begin::Execute(mut claim)) => claim.complete(&[number as u8; 4000]).unwrap(),
            // At the capacity, or what the system says of another file.
            Err(BeginError::StoreFull(Full::Space) | BeginError::Unavailable { .. }) => {
                return number;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("never full");
}

#[track_caller]
fn all_there(store: &Store, upto: usize) {
    (0..upto).for_each(|number| assert_eq!(store.answer(&name(number)), [number as u8; 4000]));
}

fn quietly(command: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(command);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A file system of its own, where this process may mount one.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn tmpfs() -> Option<Self> {
        let here = Mounted(tempfile::tempdir().unwrap());
        quietly("mount", &["-t", "tmpfs", "-o", "size=16m", "tmpfs", here.path()]).then_some(here)
    }

    /// ext4 in a file; `beside` holds the file.
    fn ext4(beside: &Path) -> Option<Self> {
        let here = Mounted(tempfile::tempdir().unwrap());
        let image = beside.join("image");
        fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
        let image = image.to_str().unwrap();
        let made = quietly("mkfs.ext4", &["-q", image]);
        (made && quietly("mount", &["-o", "loop", image, here.path()])).then_some(here)
    }

    fn remount(&self, how: &str) -> bool {
        quietly("mount", &["-o", &format!("remount,{how}"), self.path()])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        quietly("umount", &["-l", self.path()]);
    }
}

/// The kernel doesn't make a place read-only while files in it are open for writing. When the
/// store is closed it does; then opening says what is wrong, and changes nothing.
#[test]
fn a_file_system_that_is_remounted() {
    let Some(mounted) = Mounted::tmpfs() else {
        eprintln!("not allowed to mount a file system: passed over");
        return;
    };
    let place = mounted.0.path().join("store");
    let store = options().open(&place).unwrap();
    store.finish("k", b"one");
    assert!(!mounted.remount("ro"), "with files open for writing");
    store.finish("l", b"two");
    store.close().unwrap();

    assert!(mounted.remount("ro"));
    let error = options().open(&place).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains(place.to_str().unwrap()), "{error}");
    assert!(mounted.remount("rw"));
    let store = options().open(&place).unwrap();
    assert_eq!((store.answer("k"), store.answer("l")), (b"one".to_vec(), b"two".to_vec()));
}

/// What a file system does by itself after an error: from one moment on nothing is written.
#[test]
fn a_file_system_that_gives_up() {
    let beside = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::ext4(beside.path()) else {
        eprintln!("not allowed to mount a file system from a file: passed over");
        return;
    };
    let place: PathBuf = mounted.0.path().join("store");
    let store = options().open(&place).unwrap();
    store.finish("k", b"one");
    let mut claim = store.claim("held");
    assert!(mounted.remount("abort"), "ext4 does it whoever has it open");
    assert_eq!(claim.complete(b"late"), Err(ClaimError::Poisoned));
    assert_eq!(store.answer("k"), b"one");
    assert_eq!(store.begin(key("new"), print()).unwrap_err(), BeginError::Poisoned);
    assert!(store.close().is_err());
    drop(claim);
    let error = options().open(&place).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    // Repaired, it holds what was acknowledged.
    let device = format!("{}/image", beside.path().display());
    let again = Mounted(tempfile::tempdir().unwrap());
    drop(mounted);
    quietly("e2fsck", &["-fy", &device]);
    assert!(quietly("mount", &["-o", "loop", &device, again.path()]));
    let store = options().open(again.0.path().join("store")).unwrap();
    assert_eq!(store.answer("k"), b"one");
    assert!(matches!(store.ask("held"), Begin::Interrupted(_) | Begin::Replay(_)));
    assert!(matches!(store.ask("new"), Begin::Execute(_) | Begin::Interrupted(_)));
}

/// Set in a child, which has no rights of an administrator: the directory of its store.
const DIRECTORY: &str = "ONLYONCE_TEST_READ_ONLY";

#[test]
fn fills_in_a_child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let permit = |mode| fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    let store = options().open(&directory).unwrap();
    store.finish("k", b"one");
    permit(0o555);
    // What exists can be written. There can be no more of it.
    let full_at = fill(&store, 0);
    all_there(&store, full_at);
    let refused = store.begin(key("more"), print()).unwrap_err();
    assert!(matches!(refused, BeginError::Unavailable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("Permission denied"), "{refused}");
    assert!(store.stats().full.unwrap().contains("Permission denied"));
    permit(0o755);
    let fuller_at = fill(&store, full_at);
    assert!(fuller_at > full_at, "there is space again, without a restart");
    store.close().unwrap();
    permit(0o555);
    let store = options().open(&directory).unwrap();
    all_there(&store, fuller_at);
    assert_eq!(store.answer("k"), b"one");
    println!("\nall there");
}

#[test]
fn a_directory_in_which_nothing_can_be_created() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "read_only_places::fills_in_a_child", "--nocapture"])
        .env(DIRECTORY, directory.path());
    // SAFETY: a plain system call.
    if unsafe { libc::geteuid() } == 0 {
        // An administrator may create files everywhere.
        const NOBODY: u32 = 65_534;
        std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        child.uid(NOBODY).gid(NOBODY);
    }
    let output = match child.output() {
        Ok(output) => output,
        // The tests' own directory may be closed to others.
        Err(error) => {
            eprintln!("cannot start a child with fewer rights: {error}: passed over");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("all there"), "{said}{complaint}");
}
