use super::{format::*, *};
use crate::{
    key::Scope,
    limits::{COUNT_MAX, POSITION_MAX},
    storage::{SimStorage, Storage},
};

const STORE: u64 = 99;

fn open(claims: u32) -> Cells {
    let disk = SimStorage::new(1);
    let file = disk.create("claims", Cells::file_bytes(claims)).unwrap();
    Cells::create(&*file, STORE).unwrap();
    let cells = Cells::new(
        file,
        STORE,
        (Cells::file_bytes(claims) / CELL_BYTES as u64) as u32,
        false,
        Arc::default(),
        Default::default(),
        GroupCommit::new(Arc::default(), None),
    )
    .unwrap();
    cells.adopt(std::iter::empty()).unwrap();
    cells
}

fn entry<'a>(token: u64, version: u32, key: KeyRef<'a>, checkpoint: Option<&'a [u8]>) -> Entry<'a> {
    Entry {
        token: Token::new(token).unwrap(),
        version,
        attempt: 2,
        started_ms: 1000,
        lease_ms: 60_000,
        replay_ms: 5,
        remember_ms: 6,
        reserve: 77,
        fingerprint: Fingerprint::of(["x"]).with_scheme(3),
        history: true,
        interrupted: Some((Reason::Failed, 1234)),
        key,
        checkpoint,
        answer_of: version.is_multiple_of(2).then(|| Token::new(token + 9).unwrap()),
    }
}

fn matches(found: &Found, entry: &Entry<'_>) -> bool {
    found.token == entry.token
        && found.version == entry.version
        && found.attempt == entry.attempt
        && found.started_ms == entry.started_ms
        && found.lease_ms == entry.lease_ms
        && (found.replay_ms, found.remember_ms) == (entry.replay_ms, entry.remember_ms)
        && found.reserve == entry.reserve
        && found.fingerprint == entry.fingerprint
        && found.history == entry.history
        && found.interrupted == entry.interrupted
        && found.key.as_ref() == entry.key
        && found.checkpoint.as_deref() == entry.checkpoint
        && found.answer_of == entry.answer_of
}

#[test]
fn claims_of_every_length_come_back() {
    let cells = open(100);
    for (scope_len, key_len, checkpoint) in
        [(0, 1, None), (20, 36, Some(0)), (255, 255, None), (255, 255, Some(4096))]
    {
        let scope = Scope::new(vec![1; scope_len]).unwrap();
        let key = vec![2; key_len];
        let checkpoint = checkpoint.map(|len| vec![3; len]);
        let key = KeyRef::new(&scope, &key).unwrap();
        let entry = entry(5, 1, key, checkpoint.as_deref());
        let chain = cells.write(Purpose::Claim, &entry).unwrap().unwrap();
        let found = decode_all(STORE, &cells.image());
        assert!(found.damaged.is_empty());
        assert_eq!(found.claims.len(), 1);
        assert!(matches(&found.claims[0], &entry));
        assert_eq!(found.claims[0].chain.cells, chain.cells);
        cells.clear(&chain).unwrap();
        assert!(decode_all(STORE, &cells.image()).claims.is_empty());
    }
}

#[test]
fn the_newest_whole_version_counts() {
    let cells = open(40);
    let scope = Scope::global();
    let key = KeyRef::new(&scope, "k").unwrap();
    cells.write(Purpose::Claim, &entry(5, 1, key, None)).unwrap().unwrap();
    let long = vec![9; 2000];
    let second = cells.write(Purpose::Claim, &entry(5, 2, key, Some(&long))).unwrap().unwrap();
    let newest = |image: &[u8]| decode_all(STORE, image).claims[0].version;
    assert_eq!(newest(&cells.image()), 2);
    // Without its last cell the second version never became whole.
    let mut torn = cells.image();
    let at = *second.cells.last().unwrap() as usize * CELL_BYTES;
    torn[at..at + 8].copy_from_slice(&FREE.to_le_bytes());
    assert_eq!(newest(&torn), 1);
    assert!(decode_all(STORE, &torn).damaged.is_empty());
}

#[test]
fn a_full_file_refuses_and_recovers() {
    let cells = open(1);
    let scope = Scope::global();
    let key = KeyRef::new(&scope, "k").unwrap();
    let room = cells.free();
    let chains: Vec<_> = (0..room as u64)
        .map(|n| cells.write(Purpose::Claim, &entry(n + 1, 1, key, None)).unwrap().unwrap())
        .collect();
    assert_eq!(cells.write(Purpose::Claim, &entry(99, 1, key, None)), Ok(None));
    chains.iter().for_each(|chain| cells.clear(chain).unwrap());
    assert_eq!(cells.free(), room);
}

#[test]
fn every_flipped_bit_of_a_claim_is_noticed_or_harmless() {
    let cells = open(10);
    let scope = Scope::global();
    let key = KeyRef::new(&scope, "some-key").unwrap();
    let entry = entry(5, 1, key, None);
    let chain = cells.write(Purpose::Claim, &entry).unwrap().unwrap();
    let image = cells.image();
    let from = chain.cells[0] as usize * CELL_BYTES;
    for bit in from * 8..(from + CELL_BYTES) * 8 {
        let mut bad = image.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let found = decode_all(STORE, &bad);
        let harmless = found.claims.len() == 1 && matches(&found.claims[0], &entry);
        let noticed = [found.damaged, found.torn].concat();
        assert!(noticed == [from as u64] || harmless, "bit {bit}");
    }
}

#[test]
fn a_zeroed_block_is_damage_and_not_a_row_of_free_cells() {
    let mut image = open(10).image();
    assert!(decode_all(STORE, &image).damaged.is_empty());
    image[1024..2048].fill(0);
    let damaged = decode_all(STORE, &image).damaged;
    assert_eq!(damaged, [1024, 1280, 1536, 1792]);
}

#[test]
fn an_old_chain_goes_when_the_new_one_is_durable() {
    let cells = open(20);
    let scope = Scope::global();
    let key = KeyRef::new(&scope, "k").unwrap();
    let mut chain = cells.write(Purpose::Claim, &entry(5, 1, key, None)).unwrap().unwrap();
    let free = cells.free();
    let newer = cells.write(Purpose::Claim, &entry(5, 2, key, None)).unwrap().unwrap();
    cells.replace(&mut chain, newer);
    assert_eq!(cells.free(), free - 1);
    cells.group.lead_if_needed(&cells);
    assert_eq!(cells.free(), free);
}

#[test]
fn a_version_is_settled_when_the_clearing_of_the_one_before_is_durable() {
    let cells = open(20);
    let scope = Scope::global();
    let key = KeyRef::new(&scope, "k").unwrap();
    let mut chain = cells.write(Purpose::Claim, &entry(5, 1, key, None)).unwrap().unwrap();
    assert_eq!(cells.until_settled(&chain), None);
    let free = cells.free();
    let newer = cells.write(Purpose::Claim, &entry(5, 2, key, None)).unwrap().unwrap();
    // A commit that passes between the writing of the new version and the queueing of the old one.
    cells.group.lead_once(&cells);
    cells.replace(&mut chain, newer);
    assert_eq!(cells.free(), free - 1);
    let until = cells.until_settled(&chain).unwrap();
    assert!(until > cells.group.durable());
    // This one clears the old version after its sync.
    cells.group.lead_once(&cells);
    assert_eq!(cells.free(), free);
    let until = cells.until_settled(&chain).expect("a loss of power would bring it back");
    assert!(until > cells.group.durable());
    cells.group.lead_once(&cells);
    assert!(until <= cells.group.durable());
    assert_eq!(cells.until_settled(&chain), None);
}

#[test]
fn the_noted_time_is_never_set_back() {
    let cells = open(1);
    cells.note_time(2000).unwrap();
    cells.note_time(1000).unwrap();
    assert_eq!(read_time(&cells.image(), STORE), Some(2000));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let cells = &cells;
            scope.spawn(move || {
                (0..1000).for_each(|n| cells.note_time(3000 + n * 4 + thread).unwrap());
            });
        }
    });
    assert_eq!(read_time(&cells.image(), STORE), Some(6999));
}

#[test]
fn positions_are_noted_up_to_the_last_one() {
    let cells = open(1);
    let noted = |position: u64| {
        cells.note_durable(3, 7, position).unwrap();
        read_durable(&cells.image(), STORE, 7, 3).expect("the note does not read back")
    };
    for exact in [0, 1, (1 << 48) - 1] {
        assert_eq!(noted(exact), exact);
    }
    // Never more than is durable, and little less.
    for far in [1 << 48, (1 << 48) + 1, (1 << 61) + 77, POSITION_MAX - 1] {
        assert!((far - (1 << 14)..=far).contains(&noted(far)), "{far}");
    }
}

#[test]
fn the_last_version_and_attempt_read_back_and_the_next_would_not() {
    let scope = Scope::global();
    let key = KeyRef::new(&scope, "k").unwrap();
    for (version, attempt, reads) in
        [(COUNT_MAX, COUNT_MAX, true), (COUNT_MAX + 1, 1, false), (1, COUNT_MAX + 1, false)]
    {
        let cells = open(1);
        let entry = Entry { attempt, ..entry(5, version, key, None) };
        cells.write(Purpose::Claim, &entry).unwrap().unwrap();
        let found = decode_all(STORE, &cells.image());
        assert_eq!((found.claims.len(), found.damaged.len()), (reads.into(), (!reads).into()));
    }
}

#[test]
fn hints_belong_to_their_life() {
    let cells = open(1);
    cells.note_durable(3, 7, 123_456).unwrap();
    cells.note_time(1_700_000_000_000).unwrap();
    let image = cells.image();
    assert_eq!(read_durable(&image, STORE, 7, 3), Some(123_456));
    assert_eq!(read_durable(&image, STORE, 8, 3), None);
    assert_eq!(read_durable(&image, STORE, 7, 4), None);
    // Sixteen bits fit by chance to a few of so many lives. A far position is never so low.
    let by_chance: Vec<_> =
        (8..400_000).filter_map(|life| read_durable(&image, STORE, life, 3)).collect();
    assert!(!by_chance.is_empty());
    assert!(by_chance.iter().all(|position| *position == 123_456), "{by_chance:?}");
    assert_eq!(read_time(&image, STORE), Some(1_700_000_000_000));
}

#[test]
fn an_image_holds_what_it_was_made_of() {
    let found = |n: usize| {
        let cells = open(60);
        let scope = Scope::new(vec![b's'; (n * 20).min(255)]).unwrap();
        let name = vec![b'k'; n * 20];
        let checkpoint = vec![n as u8; n * 300];
        let key = KeyRef::new(&scope, &name).unwrap();
        let entry = entry(n as u64, 1, key, Some(&checkpoint).filter(|_| n > 1).map(|c| &c[..]));
        cells.write(Purpose::Claim, &entry).unwrap().unwrap();
        let found = decode_all(STORE, &cells.image()).claims.pop().unwrap();
        Found { chain: Chain::default(), ..found }
    };
    let claims: Vec<Found> = (1..=12).map(found).collect();
    let image = Cells::image_of(STORE, 0, &claims, 77);
    assert!(image.len().is_multiple_of(4096));
    assert_eq!(read_time(&image, STORE), Some(77));
    let contents = decode_all(STORE, &image);
    assert!(contents.damaged.is_empty());
    let read = contents.claims.into_iter();
    let mut read: Vec<_> = read.map(|f| Found { chain: Chain::default(), ..f }).collect();
    read.sort_by_key(|found| found.token);
    assert_eq!(read, claims);
}
