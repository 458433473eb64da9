//! Reads the segments.

mod outside;

pub(crate) use outside::{Until, read_until};

use crate::{
    broken::{self, Broken},
    error::OpenError,
    index::KeyHasher,
    key::KeyRef,
    limits::MIB,
    log::{
        self, ActiveSince, DATA_START, Encoded, FooterEntry, Frame, Kind, MAIN_CLASS, Slot,
        Summary, erased, file_name,
        frame::{HEADER_BYTES, Placed},
        scan::{Found, Scan, scan_ring, scan_segment},
    },
    storage::Storage,
    superblock::Superblock,
    sync::thread,
};
use outside::still_holds;
use std::{borrow::Cow, collections::HashMap, io, ops::Range, sync::Arc};

/// A slot and what it was found to hold.
pub(crate) struct Segment {
    pub slot: Arc<Slot>,
    contents: Contents,
}

/// The bytes of a segment's frames, and where read calls failed.
pub(crate) struct Image<'a> {
    pub bytes: Cow<'a, [u8]>,
    pub failed: Vec<(u64, io::Error)>,
}

/// What a listed place has.
pub(crate) enum Place {
    Frame(Frame),
    /// It was erased.
    Erased,
    Damaged,
}

impl Place {
    pub fn frame(self) -> Option<Frame> {
        match self {
            Place::Frame(frame) => Some(frame),
            _ => None,
        }
    }
}

enum Contents {
    /// In the pool: its content was never promised.
    Free,
    /// Sealed: its footer says what it holds, and that this is durable.
    Sealed { since: ActiveSince, entries: Vec<FooterEntry>, summary: Summary },
    /// Left open by a crash.
    Open(Box<Open>),
}

/// A segment without the footer of the life that filled it, read whole.
struct Open {
    image: Vec<u8>,
    since: ActiveSince,
    /// Where the frames begin that are to be found by scanning: all of them, or, if the footer of
    /// an earlier life reads, those behind what it lists.
    scan_from: u64,
    entries: Vec<FooterEntry>,
    summary: Summary,
    /// Where the bytes begin that aren't proven durable.
    unproven: u64,
    /// The place of the first byte that the ring had and the file has not.
    merged: u64,
    damaged: bool,
}

impl Segment {
    pub fn newest_ms(&self) -> u64 {
        self.summary().map_or(0, |summary| summary.newest_ms)
    }

    pub fn summary(&self) -> Option<Summary> {
        match &self.contents {
            Contents::Free => None,
            Contents::Sealed { summary, .. } => Some(*summary),
            Contents::Open(open) if open.entries.is_empty() && !open.damaged => None,
            Contents::Open(open) => Some(open.summary),
        }
    }

    pub fn since(&self) -> Option<ActiveSince> {
        match &self.contents {
            Contents::Free => None,
            Contents::Sealed { since, .. } => Some(*since),
            Contents::Open(open) => Some(open.since),
        }
    }

    /// Scans a segment that was left open.
    fn scan(&self) -> Option<Scan> {
        let Contents::Open(open) = &self.contents else {
            return None;
        };
        Some(open.scan(&self.slot))
    }

    pub fn entries(&self) -> &[FooterEntry] {
        match &self.contents {
            Contents::Free => &[],
            Contents::Sealed { entries, .. } => entries,
            Contents::Open(open) => &open.entries,
        }
    }

    /// Reads a frame before the log is there to do it.
    pub fn frame_at(&self, offset: u64) -> io::Result<Place> {
        let entry = match &self.contents {
            Contents::Free => return Ok(Place::Damaged),
            Contents::Open(open) => {
                let bytes = open.image.get(offset as usize..).unwrap_or_default();
                let frame = Frame::parse(self.slot.seed(), bytes);
                return Ok(self.place_of(frame, offset, bytes));
            }
            Contents::Sealed { entries, .. } => {
                match entries.binary_search_by_key(&offset, |e| e.offset) {
                    Ok(at) => &entries[at],
                    Err(_) => return Ok(Place::Damaged),
                }
            }
        };
        let mut bytes = vec![0; entry.len as usize];
        self.slot.file.read_at(offset, &mut bytes)?;
        Ok(self.place_of(self.frame_of(entry, &bytes), offset, &bytes))
    }

    fn place_of(&self, frame: Option<Frame>, offset: u64, bytes: &[u8]) -> Place {
        let mark = bytes.first_chunk();
        match frame {
            Some(frame) => Place::Frame(frame),
            None if mark.and_then(|m| erased::len_of(self.slot.seed(), offset, m)).is_some() => {
                Place::Erased
            }
            None => Place::Damaged,
        }
    }

    /// The frame that a footer lists, given the bytes at its place.
    fn frame_of(&self, entry: &FooterEntry, bytes: &[u8]) -> Option<Frame> {
        let base = self.since()?.base;
        // A whole frame that belongs elsewhere is damage too, and so is another than listed.
        Frame::parse(self.slot.seed(), bytes)
            .filter(|frame| frame.header.position == base.wrapping_add(entry.offset))
            .filter(|frame| frame.header.kind == entry.kind)
    }

    /// All that the segment holds, for who wants to see every frame.
    pub fn image(&self) -> Image<'_> {
        match &self.contents {
            Contents::Free => Image { bytes: Cow::Borrowed(&[]), failed: Vec::new() },
            Contents::Open(open) => Image { bytes: (&open.image[..]).into(), failed: Vec::new() },
            Contents::Sealed { summary, .. } => {
                let mut bytes = vec![0; summary.data_end as usize];
                let failed = match self.slot.file.read_at(0, &mut bytes) {
                    Ok(()) => Vec::new(),
                    Err(_) => super::read_pieces(&*self.slot.file, &mut bytes),
                };
                Image { bytes: bytes.into(), failed }
            }
        }
    }

    /// A frame in the image.
    pub fn frame_in(&self, image: &Image<'_>, entry: &FooterEntry) -> Place {
        let from = entry.offset as usize;
        let bytes = image.bytes.get(from..from + entry.len as usize).unwrap_or_default();
        self.place_of(self.frame_of(entry, bytes), entry.offset, bytes)
    }

    /// Whether the segment is still in the use in which it was found.
    pub fn still_holds(&self) -> bool {
        still_holds(&self.slot, self.since())
    }

    /// Whether, besides, nothing of it was erased since.
    pub fn is_unchanged(&self) -> bool {
        let mut bytes = [0; log::SEGMENT_HEADER_BYTES];
        let now =
            self.slot.file.read_at(0, &mut bytes).map(|()| log::SegmentHeader::decode(&bytes));
        let erased = matches!(now, Ok(Ok(now)) if now.erasures != self.slot.erasures());
        self.still_holds() && !erased
    }

    /// The header of this use.
    pub fn header(&self) -> log::SegmentHeader {
        log::SegmentHeader {
            active: self.since(),
            erasures: self.slot.erasures(),
            ..self.slot.free_header(self.slot.epoch())
        }
    }

    /// The footer that lists these frames.
    pub fn footer_of(&self, entries: &[FooterEntry], summary: &Summary) -> Vec<u8> {
        log::encode_footer(self.slot.seed(), entries, summary)
    }

    /// Distinguishes this content from any other of the store. Empty if it is not final.
    pub fn seal_of(&self, entries: &[FooterEntry], summary: &Summary) -> String {
        if self.is_open() {
            return String::new();
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.header().encode());
        hasher.update(&self.footer_of(entries, summary));
        hasher.finalize().to_hex().to_string()
    }

    /// Whether no footer was found.
    pub fn is_open(&self) -> bool {
        matches!(self.contents, Contents::Open(_))
    }

    /// Writes again what isn't proven durable, fills holes, and seals; or makes an empty segment
    /// fit for the pool.
    pub fn settle(&self, last_life: u32) -> io::Result<()> {
        let open = match &self.contents {
            // A header that says free may be in the page cache alone: with power it would go back
            // to being a segment of an earlier life, without its footer or with other content.
            Contents::Free if broken::is(Broken::TrustFreeHeader) => return Ok(()),
            Contents::Free => return self.slot.confirm_free(),
            // A footer that the last life wrote may be in the page cache alone.
            Contents::Sealed { since, entries, summary } => {
                // (A segment that was taken into use and got nothing has the footer of a life that
                // its header may not know of.)
                return match since.life.max(summary.life) == last_life {
                    true => self.slot.seal(entries, summary),
                    false => Ok(()),
                };
            }
            Contents::Open(open) => open,
        };
        if self.summary().is_none() {
            return self.slot.recycle();
        }
        let (from, end) = (open.unproven as usize, open.summary.data_end as usize);
        // Its header may be in the page cache alone, too.
        self.slot.reactivate(open.since)?;
        if from < end {
            if broken::is(Broken::FooterBeforeContent) {
                self.slot.seal(&open.entries, &open.summary)?;
            }
            if !broken::is(Broken::SyncInsteadOfWriting) {
                self.slot.file.write_at(open.unproven, &open.image[from..end])?;
            }
        }
        self.slot.file.sync()?;
        self.slot.seal(&open.entries, &open.summary)
    }
}

/// The treatment of bytes that don't read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// It is an error.
    Strict,
    /// It is passed over. A read call that fails still is an error.
    Salvage,
    /// It is passed over, failed read calls included; and the files belong to another opener, which
    /// may write to them at the same time.
    Outside,
}

/// The settings for reading segments.
pub(crate) struct Reader<'a> {
    pub storage: &'a dyn Storage,
    pub superblock: &'a Superblock,
    pub hasher: KeyHasher,
    pub care: Care,
}

impl Reader<'_> {
    /// Opens and reads all segments; returns the damaged places that were passed over, too.
    pub fn read_all(
        &self,
        ring: &[u8],
        durable_hint: impl Fn(u32, u8) -> Option<u64>,
    ) -> Result<(Vec<Segment>, Vec<OpenError>), OpenError> {
        let mut damaged = Vec::new();
        let mut slots = Vec::new();
        for number in 1..=self.superblock.slots {
            match open_slot(self.storage, self.superblock, number) {
                Ok((slot, active)) => slots.push((Arc::new(slot), active)),
                Err(error @ OpenError::Io { .. }) if self.care != Care::Outside => {
                    return Err(error);
                }
                Err(error) if self.care == Care::Strict => return Err(error),
                Err(error) => damaged.push(error),
            }
        }
        let mut segments = match self.care {
            Care::Outside => self.read_newest_first(slots, &mut damaged),
            care => read_contents(slots, self.superblock.life, care == Care::Salvage)?,
        };
        merge_ring(&mut segments, self.superblock, ring);
        self.judge_open(&mut segments, durable_hint, &mut damaged)?;
        Ok((segments, damaged))
    }
}

type Active = Option<ActiveSince>;

fn open_slot(
    storage: &dyn Storage,
    superblock: &Superblock,
    number: u32,
) -> Result<(Slot, Active), OpenError> {
    let name = file_name(number);
    let file = storage.open(&name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => OpenError::Missing { file: name.clone() },
        _ => OpenError::io(format!("opening {name}"))(error),
    })?;
    let damaged = |what| OpenError::Damaged { file: name.clone(), offset: 0, what };
    let mut bytes = [0; log::SEGMENT_HEADER_BYTES];
    if file.size() < DATA_START {
        return Err(damaged("the segment has been cut short"));
    }
    file.read_at(0, &mut bytes).map_err(OpenError::io(format!("reading {name}")))?;
    let header = log::SegmentHeader::decode(&bytes).map_err(|error| match error {
        log::HeaderError::Damaged => damaged("the segment's header is not whole"),
        log::HeaderError::Newer(found) => {
            OpenError::Newer { file: name.clone(), found, known: log::SEGMENT_VERSION }
        }
    })?;
    if header.store != superblock.store || header.slot != number {
        return Err(OpenError::Foreign { file: name });
    }
    if header.bytes != file.size() {
        return Err(damaged("the segment has been cut short"));
    }
    let slot = Slot::new(number, header.epoch, superblock.store, file)
        .map_err(OpenError::io(format!("mapping {name}")))?;
    Ok((slot.with_erasures(header.erasures), header.active))
}

/// Reads footers, and where there are none everything; in parallel.
fn read_contents(
    slots: Vec<(Arc<Slot>, Active)>,
    life: u32,
    salvage: bool,
) -> Result<Vec<Segment>, OpenError> {
    let read = move |(slot, active): &(Arc<Slot>, Active)| {
        let contents = read_slot(slot, *active, life, salvage)?;
        Ok(Segment { slot: slot.clone(), contents })
    };
    let read_all =
        move |slots: &[(Arc<Slot>, Active)]| slots.iter().map(read).collect::<Result<Vec<_>, _>>();
    let threads = super::threads(slots.iter().map(|(slot, _)| slot.bytes).sum(), 4 * MIB);
    if threads == 1 {
        return read_all(&slots);
    }
    let share = slots.len().div_ceil(threads);
    thread::scope(|scope| {
        let shares: Vec<_> =
            slots.chunks(share).map(|share| scope.spawn(move || read_all(share))).collect();
        let mut segments = Vec::new();
        for share in shares {
            segments.extend(share.join().expect("reading a segment doesn't panic")?);
        }
        Ok(segments)
    })
}

fn read_slot(slot: &Slot, active: Active, life: u32, salvage: bool) -> Result<Contents, OpenError> {
    let name = file_name(slot.number);
    // A free header means that not even the first group became durable: its sync would have
    // covered the header too.
    let Some(since) = active else {
        return Ok(Contents::Free);
    };
    let failed = || OpenError::io(format!("reading {name}"));
    let footer = slot.footer().map_err(failed())?;
    let (footer, begun) = match footer {
        // The life that the header names has sealed it, or a later one that appended nothing.
        Some(footer) if footer.1.life >= since.life => (Some(footer), None),
        // An earlier life has: what that lists ends where this life's part begins.
        Some(footer) if footer.1.data_end == since.from => (None, Some(footer)),
        _ => (None, None),
    };
    if let Some((entries, summary)) = footer {
        return Ok(Contents::Sealed { since, entries, summary });
    }
    if since.life > life {
        return Err(OpenError::Damaged {
            file: name,
            offset: 0,
            what: "the segment is from a later life than the superblock",
        });
    }
    // The segments of earlier lives were all sealed before this one began.
    if since.life < life && !salvage {
        return Err(OpenError::Damaged {
            file: name,
            offset: slot.bytes - log::TRAILER_BYTES as u64,
            what: "the footer does not read back",
        });
    }
    let mut open = Open::unread(super::read_file(&*slot.file, &name)?, since);
    open.damaged = since.life < life;
    if let Some((entries, summary)) = begun {
        open.begin_with(entries, summary);
    }
    Ok(Contents::Open(Box::new(open)))
}

/// Puts the frames that the ring still holds into the segments that they belong to.
fn merge_ring(segments: &mut [Segment], superblock: &Superblock, ring: &[u8]) {
    // A segment that was closed before its end and the next one both seem to hold a position:
    // the later one, whose first byte is nearer, does.
    let home = |life: u32, position: u64| {
        let holds = |segment: &&Segment| match &segment.contents {
            Contents::Open(open) => {
                let since = &open.since;
                let data = since.base + since.from..since.base + segment.slot.bytes;
                since.life == life && since.class == MAIN_CLASS && data.contains(&position)
            }
            _ => false,
        };
        let home = segments.iter().enumerate().filter(|(_, segment)| holds(segment));
        let nearest = home.max_by_key(|(_, segment)| segment.since().map(|since| since.base));
        nearest.filter(|_| life <= superblock.life).map(|(at, _)| at)
    };
    let seed = |life, position| home(life, position).map(|at| segments[at].slot.seed());
    let (found, unrolled) = scan_ring(ring, seed);
    let placed: Vec<_> =
        found.iter().filter_map(|f| Some((home(f.header.life, f.header.position)?, *f))).collect();
    for (at, Found { offset, header }) in placed {
        let Contents::Open(open) = &mut segments[at].contents else {
            continue;
        };
        let (from, len) = (offset as usize, header.padded());
        let to = (header.position - open.since.base) as usize;
        let frame = &unrolled[from..from + len];
        if let Some(place) = open.image.get_mut(to..to + len)
            && place != frame
        {
            place.copy_from_slice(frame);
            open.merged = open.merged.min(to as u64);
        }
    }
}

impl Reader<'_> {
    /// Scans the segments that were left open and holds what is unreadable against what was
    /// durable.
    fn judge_open(
        &self,
        segments: &mut [Segment],
        durable_hint: impl Fn(u32, u8) -> Option<u64>,
        damaged: &mut Vec<OpenError>,
    ) -> Result<(), OpenError> {
        let scans: Vec<_> = segments.iter().map(|segment| segment.scan()).collect();
        // How far each class of each life is known to have been durable.
        let mut durable: HashMap<(u32, u8), u64> = HashMap::new();
        for (segment, scan) in segments.iter().zip(&scans) {
            let (Some(since), Some(scan)) = (segment.since(), scan) else {
                continue;
            };
            let known = scan.frames.iter().map(|f| f.header.durable_known()).max();
            let hint = durable_hint(since.life, since.class);
            let at = durable.entry((since.life, since.class)).or_default();
            *at = known.max(hint).unwrap_or(0).max(*at);
        }
        // Nothing is sealed before it is durable, and everything before it.
        for segment in segments.iter() {
            if let Contents::Sealed { since, summary, .. } = &segment.contents
                && let Some(at) = durable.get_mut(&(since.life, since.class))
            {
                *at = (since.base + summary.data_end).max(*at);
            }
        }
        let starts: Vec<ActiveSince> = segments.iter().filter_map(Segment::since).collect();
        for (segment, scan) in segments.iter_mut().zip(scans) {
            let (slot, Contents::Open(open)) = (segment.slot.clone(), &mut segment.contents) else {
                continue;
            };
            let since = open.since;
            let scan = scan.expect("open segments were scanned");
            // Its records end, at the latest, where the next segment's begin.
            let next = starts
                .iter()
                .filter(|s| (s.life, s.class) == (since.life, since.class) && s.base > since.base)
                .map(|s| s.base + DATA_START)
                .min();
            let end = next.unwrap_or(since.base + slot.bytes);
            // Records that earlier lives have sealed in it are durable.
            let start = since.base + since.from;
            let known = durable[&(since.life, since.class)].min(end).max(start) - since.base;
            // Without the footer that it should have, all of it had been promised.
            let promised = if open.damaged { slot.bytes } else { known };
            if let Some(hole) = lost(&scan, promised) {
                let error = OpenError::Damaged {
                    file: file_name(slot.number),
                    offset: hole.start,
                    what: "a durable record does not read back",
                };
                if self.care == Care::Strict {
                    return Err(error);
                }
                damaged.push(error);
                open.damaged = true;
            }
            open.accept(&slot, scan, promised, self.hasher);
        }
        Ok(())
    }
}

/// The first unreadable bytes that had been promised.
fn lost(scan: &Scan, promised: u64) -> Option<Range<u64>> {
    let tail = scan.end..promised.max(scan.end);
    let mut holes = scan.holes.iter().cloned().chain([tail]);
    holes.find(|hole| hole.start < promised && !hole.is_empty())
}

impl Open {
    fn unread(image: Vec<u8>, since: ActiveSince) -> Self {
        Open {
            image,
            since,
            scan_from: DATA_START,
            entries: Vec::new(),
            summary: Summary::default(),
            unproven: DATA_START,
            merged: u64::MAX,
            damaged: false,
        }
    }

    /// Takes over what the footer of an earlier life lists.
    fn begin_with(&mut self, entries: Vec<FooterEntry>, summary: Summary) {
        self.scan_from = summary.data_end;
        self.entries = entries;
        self.summary = summary;
    }

    fn scan(&self, slot: &Slot) -> Scan {
        scan_segment(&self.image, self.scan_from, slot.seed(), &self.since)
    }

    /// Lists the accepted frames and fills holes that were never promised.
    fn accept(&mut self, slot: &Slot, scan: Scan, promised: u64, hasher: KeyHasher) {
        let ActiveSince { life, class, base, .. } = self.since;
        // What had been durable and came from the ring is damaged in the file.
        self.unproven = promised.min(scan.end).min(self.merged);
        self.summary = Summary { life, data_end: scan.end, ..self.summary };
        for Found { offset, header } in &scan.frames {
            self.summary.drop_ms = self.summary.drop_ms.max(header.expires_ms);
            self.summary.newest_ms = self.summary.newest_ms.max(header.time_ms);
            if header.kind == Kind::Void {
                continue;
            }
            let names = &self.image[*offset as usize + HEADER_BYTES..];
            let (scope, rest) = names.split_at(header.scope_len as usize);
            let key = KeyRef::from_parts(scope, &rest[..header.key_len as usize])
                .expect("lengths were checked");
            self.entries.push(FooterEntry {
                hash: hasher.hash(key),
                offset: *offset,
                kind: header.kind,
                len: header.padded() as u32,
            });
        }
        for hole in scan.holes.iter().filter(|hole| hole.start >= promised) {
            let len = (hole.end - hole.start) as usize;
            // A hole is whole lost frames, so there is room; if not, it stays a hole, which a
            // footer passes over as well.
            if len < HEADER_BYTES {
                continue;
            }
            let mut void = Encoded::default();
            void.void(len);
            let position = base + hole.start;
            let placed = Placed { seed: slot.seed(), class, life, position, durable: 0 };
            let at = hole.start as usize;
            self.image[at..at + len].copy_from_slice(void.place(&placed));
        }
    }
}
