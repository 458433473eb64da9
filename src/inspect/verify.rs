//! Reading everything, to know whether it reads.

use super::{Inspection, Problem};
use crate::{
    decisions,
    key::KeyRef,
    location::Location,
    log::{
        FooterEntry, Kind,
        frame::{HEADER_BYTES, Header, check_header},
    },
    recover::segments::{Image, Place, Segment},
};

/// The progress of a verification, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The number of bytes read so far.
    pub done: u64,
    /// The number of bytes to read in all.
    pub total: u64,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Segments that were read.
    pub segments: u64,
    /// Records, tombstones and failures that read back.
    pub frames: u64,
    /// Bytes of segments that were read.
    pub bytes: u64,
    /// Undecided claims that read back.
    pub claims: u64,
    /// Cells of the claims file that a loss of power has torn, and that had not been promised: see
    /// [`Info::torn_claims`](super::Info::torn_claims). No problem.
    pub torn_claims: u64,
    /// Decisions of operators that read back.
    pub decisions: u64,
    /// Damage that was found; empty if there is none.
    pub problems: Vec<Problem>,
}

impl Inspection {
    /// Reads everything and compares it with its checksums, and the footers with the records.
    /// `progress` is called after each segment.
    pub fn verify(&self, mut progress: impl FnMut(Progress)) -> Report {
        let in_use = || self.segments.iter().filter(|segment| segment.summary().is_some());
        let length = |segment: &Segment| segment.summary().map_or(0, |summary| summary.data_end);
        let total = in_use().map(length).sum();
        let mut report = Report {
            claims: self.decided.undecided.len() as u64,
            torn_claims: self.torn_claims,
            problems: self.problems.clone(),
            ..Report::default()
        };
        for (key, location) in &self.decided.twofold {
            let key = Some(Box::new(key.clone()));
            let what = "a record and a later claim of one key; an opening removes the record";
            report.problems.push(Problem { key, ..Problem::at(*location, what) });
        }
        progress(Progress { done: 0, total });
        for segment in in_use() {
            self.verify_segment(segment, &mut report);
            report.segments += 1;
            report.bytes += length(segment);
            progress(Progress { done: report.bytes, total });
        }
        self.verify_decisions(&mut report);
        report
    }

    fn verify_decisions(&self, report: &mut Report) {
        let of = |(file, offset, what)| Problem { file, offset, what, key: None };
        let store = self.superblock.store;
        // What can't be read at once is read again.
        let checked = match decisions::check(&*self.storage, store) {
            Ok(checked) if checked.problems.is_empty() => Ok(checked),
            _ => decisions::check(&*self.storage, store),
        };
        match checked {
            Ok(checked) => {
                report.decisions = checked.decisions;
                report.problems.extend(checked.problems.into_iter().map(of));
            }
            Err(error) => {
                let what = format!("the files of decisions can't be listed: {error}");
                report.problems.push(of((self.storage.place(), 0, what)));
            }
        }
    }

    fn verify_segment(&self, segment: &Segment, report: &mut Report) {
        let image = segment.image();
        let file = crate::log::file_name(segment.slot.number);
        let mut problems: Vec<Problem> = Vec::new();
        for (offset, error) in &image.failed {
            let what = format!("the disk cannot read this: {error}");
            problems.push(Problem { file: file.clone(), offset: *offset, what, key: None });
        }
        for entry in segment.entries() {
            let location = Location::new(segment.slot.number, entry.offset);
            if self.decided.lost.contains(&location) {
                // Found and reported before.
                continue;
            }
            match self.verify_entry(segment, &image, entry) {
                Ok(()) => report.frames += 1,
                Err(problem) => problems.push(problem),
            }
        }
        // Used again while it was read: what it held had expired.
        if !problems.is_empty() && segment.still_holds() {
            report.problems.append(&mut problems);
        }
    }

    fn verify_entry(
        &self,
        segment: &Segment,
        image: &Image<'_>,
        entry: &FooterEntry,
    ) -> Result<(), Problem> {
        let location = Location::new(segment.slot.number, entry.offset);
        let problem = |what: &str| Problem {
            key: key_at(segment, image, entry).map(|key| Box::new(key.owned())),
            ..Problem::at(location, what)
        };
        let frame = match segment.frame_in(image, entry) {
            Place::Frame(frame) => frame,
            Place::Erased => return Ok(()),
            Place::Damaged => {
                return Err(problem(match entry.kind {
                    Kind::Tombstone => "a tombstone does not read back",
                    Kind::Failed => "the answer of a failure does not read back",
                    _ => "the record does not read back",
                }));
            }
        };
        if entry.kind != Kind::Void && self.hasher.hash(frame.key()) != entry.hash {
            return Err(problem("the footer lists this record under another key"));
        }
        let drop_ms = segment.summary().map_or(0, |summary| summary.drop_ms);
        if frame.header.expires_ms > drop_ms {
            return Err(problem("the record outlives its segment"));
        }
        if frame.header.token >= self.superblock.token_limit {
            return Err(problem("the record has a token that was never given out"));
        }
        Ok(())
    }
}

/// The key of a frame whose header, at least, is whole.
fn key_at<'a>(segment: &Segment, image: &'a Image<'_>, entry: &FooterEntry) -> Option<KeyRef<'a>> {
    let bytes = image.bytes.get(entry.offset as usize..)?;
    let fixed = bytes.first_chunk::<HEADER_BYTES>()?;
    let header = Header::decode(fixed, bytes.len())?;
    let names = bytes.get(HEADER_BYTES..header.head_at())?;
    if !check_header(segment.slot.seed(), fixed, names) {
        return None;
    }
    let (scope, key) = names.split_at(header.scope_len as usize);
    KeyRef::from_parts(scope, key).ok()
}
