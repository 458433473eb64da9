//! Where a program's store lies, and where its results go.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// An empty directory beside this program, or in the one that was asked for; gone with this.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str, base: Option<&str>) -> Folder {
        let path = base.map_or_else(|| beside("stores"), PathBuf::from).join(name);
        // Left by a run that was stopped.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory for the store");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file of this name in the folder of this program.
pub fn beside(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("a program");
    program.parent().expect("in a folder").join(name)
}
