//! Reading segments that another process, or this one's own store, may be writing to.

use super::{super::read_pieces, Active, Contents, Open, Reader, Segment, read_slot};
use crate::{
    error::OpenError,
    index::KeyHasher,
    log::{self, Slot, file_name},
};
use std::sync::Arc;

impl Reader<'_> {
    /// Reads segments that may be written to at the same time. The newest first: what its frames
    /// say was durable of older ones is then there when those are read.
    pub(super) fn read_newest_first(
        &self,
        mut slots: Vec<(Arc<Slot>, Active)>,
        damaged: &mut Vec<OpenError>,
    ) -> Vec<Segment> {
        let life = self.superblock.life;
        slots.sort_by_key(|(_, active)| {
            std::cmp::Reverse(active.map(|since| (since.life, since.base)))
        });
        let mut segments = Vec::new();
        for (slot, active) in slots {
            let contents = read_slot(&slot, active, life, true).and_then(|mut contents| {
                if let Contents::Open(open) = &mut contents {
                    open.read_again(&slot)?;
                }
                Ok(contents)
            });
            let contents = contents.or_else(|error| {
                damaged.push(error);
                read_in_pieces(&slot, active)
            });
            match contents {
                // Taken into another use since: what it held had expired.
                Ok(_) if !still_holds(&slot, active) => {
                    segments.push(Segment { slot, contents: Contents::Free });
                }
                Ok(contents) => segments.push(Segment { slot, contents }),
                Err(error) => damaged.push(error),
            }
        }
        segments.sort_by_key(|segment| segment.slot.number);
        segments
    }
}

impl Open {
    /// A segment that grows while it is read may show later frames and not yet earlier ones. All
    /// that is before the end that was seen once is there when it is read again.
    fn read_again(&mut self, slot: &Slot) -> Result<(), OpenError> {
        let seen = self.scan(slot).end as usize;
        let name = file_name(slot.number);
        self.image[seen..].fill(0);
        slot.file
            .read_at(0, &mut self.image[..seen])
            .map_err(OpenError::io(format!("reading {name}")))
    }
}

/// Whether a segment is still in the use in which it was found. A later life may have gone on
/// filling it: what was found is still there then.
pub(super) fn still_holds(slot: &Slot, active: Active) -> bool {
    let use_of = |active: Active| active.map(|since| (since.class, since.base));
    let mut bytes = [0; log::SEGMENT_HEADER_BYTES];
    let read = slot.file.read_at(0, &mut bytes);
    match (read, log::SegmentHeader::decode(&bytes)) {
        (Ok(()), Ok(now)) => {
            now.epoch == slot.epoch() && (active.is_none() || use_of(now.active) == use_of(active))
        }
        // The reader of its frames finds that out.
        _ => true,
    }
}

/// The end up to which a segment counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// It holds nothing.
    Free,
    /// All that its footer lists.
    Sealed,
    /// The bytes before this offset.
    Offset(u64),
}

/// Reads a segment of a running store as it was at a moment: everything before `until` is in the
/// file. `None` if it doesn't read.
pub(crate) fn read_until(
    slot: Arc<Slot>,
    until: Until,
    hasher: KeyHasher,
) -> Result<Option<Segment>, OpenError> {
    let name = file_name(slot.number);
    let failed = || OpenError::io(format!("reading {name}"));
    let mut bytes = [0; log::SEGMENT_HEADER_BYTES];
    slot.file.read_at(0, &mut bytes).map_err(failed())?;
    let active = log::SegmentHeader::decode(&bytes).ok().and_then(|header| header.active);
    let contents = match (until, active) {
        (Until::Free, _) => Contents::Free,
        (_, None) => return Ok(None),
        (Until::Sealed, Some(since)) => match slot.footer().map_err(failed())? {
            Some((entries, summary)) => Contents::Sealed { since, entries, summary },
            None => return Ok(None),
        },
        (Until::Offset(end), Some(since)) => {
            let mut open = Open::unread(super::super::read_file(&*slot.file, &name)?, since);
            open.image[end as usize..].fill(0);
            let scan = open.scan(&slot);
            if !scan.holes.is_empty() || (end < slot.bytes && scan.end != end) {
                return Ok(None);
            }
            open.accept(&slot, scan, 0, hasher);
            Contents::Open(Box::new(open))
        }
    };
    Ok(Some(Segment { slot, contents }))
}

/// Reads as much as possible of a segment in which read calls fail.
fn read_in_pieces(slot: &Slot, active: Active) -> Result<Contents, OpenError> {
    let Some(since) = active else { return Ok(Contents::Free) };
    let mut image = vec![0; slot.bytes as usize];
    read_pieces(&*slot.file, &mut image);
    let mut open = Open::unread(image, since);
    open.damaged = true;
    Ok(Contents::Open(Box::new(open)))
}
