//! Restoring a backup to a store.

use super::{
    BackupError, MANIFEST,
    manifest::{Entry, Manifest, Where},
    write::{destination, hash_of},
};
use crate::{
    recover::CLAIMS_FILE,
    storage::{DiskStorage, Storage, StorageFile},
    superblock,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const PIECE: usize = 1 << 20;

/// The number of backups that may build on each other.
const CHAIN_MAX: usize = 1000;

/// Copies the backup in `src` to the directory `dst`, which must be empty or missing, with the
/// segments that earlier backups have, and checks everything against the manifests. An earlier
/// backup is looked for where it was, and otherwise beside `src`. `dst` is a store then: opening it
/// begins a new life.
///
/// Returns the number of bytes that were copied.
///
/// # Errors
/// [`BackupError::Unfinished`], [`BackupError::Changed`] or [`BackupError::NotEmpty`] if the backup
/// or the directory can't be used, and [`BackupError::Io`] and [`BackupError::Open`] from the file
/// system. The files written to `dst` are not a store then, and can be removed.
pub fn restore(src: impl AsRef<Path>, dst: impl AsRef<Path>) -> Result<u64, BackupError> {
    let manifest = Manifest::read(src.as_ref())?;
    let dst = destination(dst.as_ref())?;
    let place = dst.place();
    let io = || BackupError::io(format!("writing to {place}"));
    if let Some(file) = dst.list().map_err(io())?.into_iter().next() {
        return Err(BackupError::NotEmpty { place, file });
    }
    // The superblock comes last: until then it is no store.
    let is_superblock = |entry: &&Entry| entry.name == superblock::FILE;
    let mut copied = 0;
    for entry in manifest.entries.iter().filter(|entry| !is_superblock(entry)) {
        if entry.name == CLAIMS_FILE {
            // The segments have durable names: without them what a loss of power leaves of a claims
            // file that holds nothing yet would be taken for a new store's.
            dst.sync_dir().map_err(io())?;
        }
        let file = dst.create(&entry.name, entry.bytes).map_err(io())?;
        copy(&manifest, entry, &file)?;
        copied += entry.bytes;
    }
    dst.sync_dir().map_err(io())?;
    let entry = manifest.entries.iter().find(is_superblock).ok_or(BackupError::Unfinished {
        place: manifest.place.display().to_string(),
        what: "names no superblock".into(),
    })?;
    let file = dst.create(superblock::FILE, entry.bytes).map_err(io())?;
    copy(&manifest, entry, &file)?;
    dst.sync_dir().map_err(io())?;
    Ok(copied + entry.bytes)
}

/// Copies a file from the backup that has it, checking it on the way.
fn copy(manifest: &Manifest, entry: &Entry, to: &Arc<dyn StorageFile>) -> Result<(), BackupError> {
    let holder = holder_of(manifest, entry)?;
    let changed = |what| BackupError::Changed {
        place: holder.display().to_string(),
        file: entry.name.clone(),
        what,
    };
    let io = || BackupError::io(format!("copying {} from {}", entry.name, holder.display()));
    let from = DiskStorage::open_read_only(&holder).and_then(|dir| dir.open(&entry.name));
    let from = from.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => changed("it is missing"),
        _ => io()(error),
    })?;
    if from.size() != entry.bytes || to.size() != entry.bytes {
        return Err(changed("it has another size"));
    }
    // The file that makes a store of the others is checked before it is written, too.
    if entry.name == superblock::FILE && hash_of(&*from).map_err(io())? != entry.hash {
        return Err(changed("its checksum differs"));
    }
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    while offset < entry.bytes {
        let len = (entry.bytes - offset).min(PIECE as u64) as usize;
        from.read_at(offset, &mut piece[..len]).map_err(io())?;
        to.write_at(offset, &piece[..len]).map_err(io())?;
        offset += len as u64;
    }
    to.sync().map_err(io())?;
    // The hash of the written file, not of the bytes that were read.
    match hash_of(&**to).map_err(io())? == entry.hash {
        true => Ok(()),
        false => Err(changed("its checksum differs")),
    }
}

/// The directory of the backup that has this file.
fn holder_of(manifest: &Manifest, entry: &Entry) -> Result<PathBuf, BackupError> {
    let mut manifest = manifest.clone();
    let mut at = entry.at;
    for _ in 0..CHAIN_MAX {
        if at == Where::Here {
            return Ok(manifest.place);
        }
        let unfinished = |what: &str| BackupError::Unfinished {
            place: manifest.place.display().to_string(),
            what: what.into(),
        };
        let earlier = manifest.earlier.clone().ok_or(unfinished("names no earlier backup"))?;
        let earlier = match (earlier.join(MANIFEST).exists(), earlier.file_name()) {
            (false, Some(name)) => manifest.place.parent().unwrap_or(Path::new(".")).join(name),
            _ => earlier,
        };
        let next = Manifest::read(&earlier)?;
        let same = |known: &&Entry| known.hash == entry.hash && known.bytes == entry.bytes;
        let changed = BackupError::Changed {
            place: earlier.display().to_string(),
            file: entry.name.clone(),
            what: "that backup has another one",
        };
        at = next.find(&entry.name).filter(same).ok_or(changed)?.at;
        manifest = next;
    }
    let what = "goes back through too many backups".into();
    Err(BackupError::Unfinished { place: manifest.place.display().to_string(), what })
}
