//! The list of a backup's files, as text: a line for each, a checksum over all lines at the end.
//!
//! ```text
//! onlyonce backup 1
//! store 0f3c0c8ba6a8d3e1
//! taken 1800000000000
//! earlier /backups/monday
//! file claims 1048576 <BLAKE3, hex> here -
//! file segment-000001 67108864 <BLAKE3, hex> earlier <seal>
//! end <BLAKE3 of all bytes before this line>
//! ```
//!
//! `earlier` is `-` for a full backup. A seal is the BLAKE3 of a sealed segment's header and
//! footer: two segments of one store with the same seal hold the same.

use super::{BackupError, MANIFEST};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

const FIRST_LINE: &str = "onlyonce backup 1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub place: PathBuf,
    pub store: u64,
    pub taken_ms: u64,
    pub earlier: Option<PathBuf>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    pub bytes: u64,
    pub hash: String,
    /// Empty if the file is no sealed segment.
    pub seal: String,
    pub at: Where,
}

/// Which backup has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    Here,
    Earlier,
}

impl Manifest {
    pub fn encode(&self) -> String {
        let mut text =
            format!("{FIRST_LINE}\nstore {:016x}\ntaken {}\n", self.store, self.taken_ms);
        let earlier = self.earlier.as_ref().map_or("-".into(), |path| path.to_string_lossy());
        let _ = writeln!(text, "earlier {earlier}");
        for Entry { name, bytes, hash, seal, at } in &self.entries {
            let at = if *at == Where::Here { "here" } else { "earlier" };
            let seal = if seal.is_empty() { "-" } else { seal };
            let _ = writeln!(text, "file {name} {bytes} {hash} {at} {seal}");
        }
        let hash = blake3::hash(text.as_bytes());
        let _ = writeln!(text, "end {hash}");
        text
    }

    /// The manifest of the backup in `place`.
    pub fn read(place: &Path) -> Result<Self, BackupError> {
        let unfinished = |what: &str| {
            let place = place.display().to_string();
            BackupError::Unfinished { place, what: what.to_owned() }
        };
        let text = match fs::read_to_string(place.join(MANIFEST)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(unfinished("is missing"));
            }
            Err(error) => return Err(unfinished(&format!("cannot be read: {error}"))),
        };
        if let Some(first) = text.lines().next()
            && first != FIRST_LINE
            && first.starts_with("onlyonce backup ")
        {
            return Err(unfinished("was written by a newer version"));
        }
        let place = fs::canonicalize(place).unwrap_or_else(|_| place.to_owned());
        Self::decode(place, &text).ok_or_else(|| unfinished("is not whole"))
    }

    fn decode(place: PathBuf, text: &str) -> Option<Self> {
        let end = text.trim_end().rfind('\n')? + 1;
        let (said, last) = text.split_at(end);
        let hash = last.strip_prefix("end ")?.trim_end();
        if blake3::hash(said.as_bytes()).to_hex().as_str() != hash {
            return None;
        }
        let mut lines = said.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let _version = field("onlyonce")?.strip_prefix("backup 1")?;
        let store = u64::from_str_radix(field("store")?, 16).ok()?;
        let taken_ms = field("taken")?.parse().ok()?;
        let earlier = Some(field("earlier")?).filter(|path| *path != "-").map(PathBuf::from);
        let entries = lines.map(Entry::decode).collect::<Option<Vec<_>>>()?;
        Some(Manifest { place, store, taken_ms, earlier, entries })
    }

    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

impl Entry {
    fn decode(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("file ")?.split(' ');
        let mut word = || words.next().map(str::to_owned);
        let (name, bytes, hash, at, seal) = (word()?, word()?, word()?, word()?, word()?);
        let at = match &at[..] {
            "here" => Where::Here,
            "earlier" => Where::Earlier,
            _ => return None,
        };
        let seal = if seal == "-" { String::new() } else { seal };
        Some(Entry { name, bytes: bytes.parse().ok()?, hash, seal, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let entry = |name: &str, at, seal: &str| Entry {
            name: name.into(),
            bytes: 4096,
            hash: "ab".repeat(32),
            seal: seal.into(),
            at,
        };
        Manifest {
            place: "/here".into(),
            store: 0x1ce,
            taken_ms: 5,
            earlier: Some("/backups/last monday".into()),
            entries: vec![
                entry("claims", Where::Here, ""),
                entry("segment-000001", Where::Earlier, "cd"),
            ],
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        for earlier in [None, sample().earlier] {
            let manifest = Manifest { earlier, ..sample() };
            assert_eq!(Manifest::decode("/here".into(), &manifest.encode()), Some(manifest));
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let text = sample().encode();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            // Behind the checksum nothing is said.
            let said = at + 1 < text.len();
            assert!(!said || Manifest::decode("/here".into(), &changed).is_none(), "byte {at}");
            assert!(!said || Manifest::decode("/here".into(), &text[..at]).is_none(), "cut {at}");
        }
    }
}
