//! A disk that promises what POSIX does, and nothing else: what a file holds is durable after a
//! sync of that file, and a name after a sync of the directory that it is in.

use super::recording::Event;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

const SECTOR: usize = 512;

/// What the platter has of each file or directory that is not wholly durable.
pub trait Choice {
    /// Of how many versions of a sector of `path`, from the durable one (0) to the newest. `None`: of
    /// its length, or of a name in it.
    fn version(&mut self, path: &Path, sector: Option<usize>, versions: usize) -> usize;
}

#[derive(Clone, Default)]
struct Data {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// What each sector has held since the last sync.
    sectors: BTreeMap<usize, Vec<Vec<u8>>>,
    /// And how long the file was.
    sizes: Vec<usize>,
}

#[derive(Clone, Default)]
pub struct Disk {
    /// By the path at which it was made. What was removed and made again is new.
    files: BTreeMap<PathBuf, Data>,
    directories: BTreeSet<PathBuf>,
    /// Whether each name is durable, and was durable before.
    names: BTreeMap<PathBuf, Name>,
}

#[derive(Clone, Copy, Default, PartialEq)]
struct Name {
    live: bool,
    durable: bool,
}

/// What is found when the power comes back.
pub struct Found {
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    pub directories: BTreeSet<PathBuf>,
}

impl Data {
    fn resize(&mut self, len: usize) {
        if len == self.live.len() {
            return;
        }
        if len < self.live.len() {
            let cut = len / SECTOR..self.live.len().div_ceil(SECTOR);
            self.live[len..].fill(0);
            cut.for_each(|sector| self.touched(sector));
        }
        self.live.resize(len, 0);
        self.sizes.push(len);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if offset + bytes.len() > self.live.len() {
            self.resize(offset + bytes.len());
        }
        self.live[offset..offset + bytes.len()].copy_from_slice(bytes);
        let sectors = offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR);
        sectors.for_each(|sector| self.touched(sector));
    }

    fn touched(&mut self, sector: usize) {
        let end = self.live.len().min((sector + 1) * SECTOR);
        let now = &self.live[(sector * SECTOR).min(end)..end];
        // The same bytes again make no difference to what may be found.
        let durable = self.durable.get(sector * SECTOR..end);
        if durable == Some(now) && !self.sectors.contains_key(&sector) {
            return;
        }
        self.sectors.entry(sector).or_default().push(now.to_vec());
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.live);
        self.sectors.clear();
        self.sizes.clear();
    }

    fn is_durable(&self) -> bool {
        self.sectors.is_empty() && self.sizes.is_empty()
    }

    fn found(&self, path: &Path, choice: &mut dyn Choice) -> Vec<u8> {
        let len = match choice.version(path, None, self.sizes.len() + 1) {
            0 => self.durable.len(),
            chosen => self.sizes[chosen - 1],
        };
        let mut bytes = self.durable.clone();
        bytes.resize(len, 0);
        for (sector, versions) in &self.sectors {
            let chosen = choice.version(path, Some(*sector), versions.len() + 1);
            let at = sector * SECTOR;
            if chosen > 0 && at < len {
                let kept = &versions[chosen - 1];
                let kept = &kept[..kept.len().min(len - at)];
                bytes[at..at + kept.len()].copy_from_slice(kept);
            }
        }
        bytes
    }
}

impl Disk {
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::MakeDir(path) => {
                self.directories.insert(path.clone());
                self.names.entry(path.clone()).or_default().live = true;
            }
            Event::Create(path, empty) => {
                let name = self.names.entry(path.clone()).or_default();
                if !name.live {
                    // A new file, whatever was there under this name before.
                    name.live = true;
                    self.files.insert(path.clone(), Data::default());
                } else if *empty {
                    self.file(path).resize(0);
                }
            }
            Event::Resize(path, len, exactly) => {
                let file = self.file(path);
                let len = *len as usize;
                file.resize(if *exactly { len } else { len.max(file.live.len()) });
            }
            Event::Write(path, offset, bytes) => self.file(path).write(*offset as usize, bytes),
            Event::Remove(path) => {
                self.names.get_mut(path).expect("it is there").live = false;
            }
            Event::Sync(path, _) => self.sync(path),
            Event::Mark(_) => {}
        }
    }

    fn file(&mut self, path: &Path) -> &mut Data {
        self.files.get_mut(path).unwrap_or_else(|| panic!("{} is not known", path.display()))
    }

    fn sync(&mut self, path: &Path) {
        if let Some(file) = self.files.get_mut(path) {
            return file.sync();
        }
        for (_, name) in self.names.iter_mut().filter(|(at, _)| at.parent() == Some(path)) {
            name.durable = name.live;
        }
    }

    /// The files and directories of which something is not durable.
    pub fn unsynced(&self) -> BTreeSet<PathBuf> {
        let files = self.files.iter().filter(|(_, data)| !data.is_durable());
        let names = self.names.iter().filter(|(_, name)| name.live != name.durable);
        let directories = names.map(|(path, _)| path.parent().unwrap().to_owned());
        files.map(|(path, _)| path.clone()).chain(directories).collect()
    }

    /// Where the last piece of a file begins that is not durable.
    pub fn last_unsynced(&self, path: &Path) -> usize {
        let Some(data) = self.files.get(path) else { return 0 };
        let begins = |sector: &&usize| **sector == 0 || !data.sectors.contains_key(&(**sector - 1));
        data.sectors.keys().rfind(begins).copied().unwrap_or(0)
    }

    /// The power goes.
    pub fn cut(&self, choice: &mut dyn Choice) -> Found {
        let mut found = Found { files: BTreeMap::new(), directories: BTreeSet::new() };
        // A directory comes before what is in it.
        for (path, name) in &self.names {
            let above = path.parent().unwrap();
            if above != Path::new("") && !found.directories.contains(above) {
                continue;
            }
            let there = match name.live == name.durable {
                true => name.live,
                false if choice.version(above, None, 2) == 1 => name.live,
                false => name.durable,
            };
            if there && self.directories.contains(path) {
                found.directories.insert(path.clone());
            } else if there {
                found.files.insert(path.clone(), self.files[path].found(path, choice));
            }
        }
        found
    }
}
