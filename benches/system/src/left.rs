//! The files that a killed process left: what an opening has to read of them, whether that lies in
//! the page cache, and how to have them again as they were.

use rustix::fs::{Advice, fadvise, fdatasync};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
};

const HEADER: usize = 64;
const TRAILER: usize = 48;
const ENTRY: u64 = 16;
/// Bytes of a read call: a buffer that stays in the processor's cache.
const AT_ONCE: usize = 1 << 20;

/// What a store's files were like before anybody opened them again.
pub struct Left {
    dir: PathBuf,
    pieces: Vec<Piece>,
    /// Contents of the files that an opening changes.
    changing: Vec<(PathBuf, Vec<u8>)>,
    files: Vec<PathBuf>,
    pub sealed: usize,
    pub unsealed: usize,
}

/// Bytes that an opening can't do without.
struct Piece {
    file: PathBuf,
    offset: u64,
    len: u64,
}

impl Left {
    pub fn of(dir: &Path) -> io::Result<Left> {
        let mut left = Left {
            dir: dir.into(),
            pieces: Vec::new(),
            changing: Vec::new(),
            files: files(dir)?,
            sealed: 0,
            unsealed: 0,
        };
        for path in left.files.clone() {
            let file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            let segment = path.file_name().is_some_and(|n| n.to_string_lossy().contains("segment"));
            let found = if segment { segment_holds(&file, bytes)? } else { Holds::Whole };
            let offset = match found {
                Holds::Nothing => continue,
                Holds::Footer { entries } => bytes - TRAILER as u64 - ENTRY * u64::from(entries),
                Holds::Whole => 0,
            };
            left.pieces.push(Piece { file: path.clone(), offset, len: bytes - offset });
            if found == Holds::Whole {
                left.changing.push((path.clone(), fs::read(&path)?));
            }
            left.sealed += usize::from(matches!(found, Holds::Footer { .. }));
            left.unsealed += usize::from(segment && found == Holds::Whole);
        }
        Ok(left)
    }

    /// Bytes that an opening can't do without.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }

    /// Reads them, with as many threads as an opening has, each its own files.
    pub fn read(&self) {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
        thread::scope(|scope| {
            for nth in 0..threads {
                let mine = self.pieces.iter().skip(nth).step_by(threads);
                scope.spawn(move || {
                    let mut into = vec![0; AT_ONCE];
                    for piece in mine {
                        let file = File::open(&piece.file).expect("it was there");
                        for at in (0..piece.len as usize).step_by(AT_ONCE) {
                            let into = &mut into[..AT_ONCE.min(piece.len as usize - at)];
                            let offset = piece.offset + at as u64;
                            file.read_exact_at(into, offset).expect("it could be read");
                        }
                    }
                });
            }
        });
    }

    /// Makes the files what they were. An opening writes the rest of them again, with the same
    /// bytes.
    pub fn restore(&self) -> io::Result<()> {
        for path in files(&self.dir)?.iter().filter(|path| !self.files.contains(path)) {
            fs::remove_file(path)?;
        }
        for (path, bytes) in &self.changing {
            File::options().write(true).open(path)?.write_all_at(bytes, 0)?;
        }
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|path| Ok(fdatasync(File::open(path)?)?))
    }

    /// Syncs and then takes each file out of the page cache, which needs no privilege. No process
    /// may have them mapped.
    pub fn cool(&self) -> io::Result<()> {
        self.sync()?;
        let cool = |path| Ok(fadvise(File::open(path)?, 0, None, Advice::DontNeed)?);
        self.files.iter().try_for_each(cool)
    }

    /// Reads all files, so that the page cache has them.
    pub fn warm(&self) -> io::Result<()> {
        let mut into = vec![0; AT_ONCE];
        for path in &self.files {
            let (file, mut at) = (File::open(path)?, 0);
            while let read @ 1.. = file.read_at(&mut into, at)? {
                at += read as u64;
            }
        }
        Ok(())
    }
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<_> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    Ok(files)
}

/// What of a file an opening has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    Footer { entries: u32 },
    Whole,
}

/// By the file's header and trailer: see `docs/format.md`.
fn segment_holds(file: &File, bytes: u64) -> io::Result<Holds> {
    let (mut header, mut trailer) = ([0; HEADER], [0; TRAILER]);
    file.read_exact_at(&mut header, 0)?;
    file.read_exact_at(&mut trailer, bytes - TRAILER as u64)?;
    Ok(holds(&header, &trailer))
}

fn holds(header: &[u8; HEADER], trailer: &[u8; TRAILER]) -> Holds {
    let word = |bytes: &[u8], at| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
    let (epoch, in_use) = (word(header, 24), word(header, 28) == 1);
    match in_use {
        false => Holds::Nothing,
        true if trailer.starts_with(b"1ce-foot") && word(trailer, 40) == epoch => {
            Holds::Footer { entries: word(trailer, 8) }
        }
        true => Holds::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Folder,
        work::{BUFFERED, RESPONSE_BYTES, key, new_series, pair, scope},
    };
    use onlyonce::Options;

    #[test]
    fn a_footer_of_an_earlier_use_counts_for_nothing() {
        let (mut header, mut trailer) = ([0; HEADER], [0; TRAILER]);
        trailer[..8].copy_from_slice(b"1ce-foot");
        (trailer[8], trailer[40], header[24]) = (7, 3, 3);
        assert_eq!(holds(&header, &trailer), Holds::Nothing);
        header[28] = 1;
        assert_eq!(holds(&header, &trailer), Holds::Footer { entries: 7 });
        header[24] = 4;
        assert_eq!(holds(&header, &trailer), Holds::Whole);
    }

    #[test]
    fn files_that_were_opened_again_become_what_they_were() {
        let folder = Folder::new("left", None);
        let open = || Options::new().durability(BUFFERED).open(folder.path()).unwrap();
        let (store, scope, series) = (open(), scope(), new_series());
        (0..3000).for_each(|i| pair(&store, &scope, &key(series, i), &[7; RESPONSE_BYTES]));
        store.flush().unwrap();
        // Nothing writes to the files of a store at rest: they could as well be a killed one's.
        let left = Left::of(folder.path()).unwrap();
        assert!(left.unsealed > 0);
        let before: Vec<_> = left.files.iter().map(|path| fs::read(path).unwrap()).collect();
        store.close().unwrap();
        open().close().unwrap();
        assert_eq!(Left::of(folder.path()).unwrap().unsealed, 0);
        left.restore().unwrap();
        assert_eq!(files(folder.path()).unwrap(), left.files);
        let after: Vec<_> = left.files.iter().map(|path| fs::read(path).unwrap()).collect();
        let same = |(at, before): (usize, &Vec<u8>)| (before != &after[at]).then_some(at);
        let changed: Vec<_> = before.iter().enumerate().filter_map(same).collect();
        assert!(changed.is_empty(), "{changed:?} of {:?}", left.files);
        assert_eq!(open().stats().records, 3000);
    }
}
