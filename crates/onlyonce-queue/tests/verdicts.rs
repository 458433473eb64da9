//! What the queue is told, for each way that a delivery can end.

use onlyonce::{AsyncStore, Claim, ManualClock, Options, Store, WorkError};
use onlyonce_queue::{Consumer, Delivery, Fate, NackReason, ParkReason, Verdict};
use std::{
    cell::{Cell, RefCell},
    future::pending,
    time::Duration,
};
use tokio::sync::oneshot;

type Held = Claim<AsyncStore<Store>>;

struct Bench {
    consumer: Consumer<Store>,
    clock: ManualClock,
    effects: RefCell<Vec<String>>,
    settled: Cell<u32>,
}

impl Bench {
    fn new() -> Self {
        let clock = ManualClock::at(1_700_000_000_000);
        let store = Options::new().clock(clock.clone()).max_attempts(3).open_in_memory().unwrap();
        let consumer = Consumer::new(store, "orders").max_deliveries(4);
        Bench { consumer, clock, effects: RefCell::default(), settled: Cell::new(0) }
    }

    /// Delivers; the work does its effect and then ends like this.
    async fn deliver(&self, nth: u32, fate: Fate, ends: Result<(), WorkError<&str>>) -> Verdict {
        let delivery = Delivery { id: b"m1", body: b"one book", nth: Some(nth) };
        let settle = async |_: &Held| {
            self.settled.set(self.settled.get() + 1);
            fate
        };
        let work = async |claim: &mut Held| {
            if !matches!(ends, Err(WorkError::NothingDone(_))) {
                self.effects.borrow_mut().push(claim.derive_key("effect"));
            }
            ends
        };
        self.consumer.handle(delivery, settle, work).await
    }

    fn effects(&self) -> usize {
        self.effects.borrow().len()
    }

    /// A delivery whose consumer is gone half way.
    async fn die_in_the_middle(&self) {
        let delivery = Delivery { id: b"m1", body: b"one book", nth: Some(1) };
        let (tell, half_way) = oneshot::channel();
        let settle = async |_: &Held| Fate::AskLater;
        let work = async |_: &mut Held| {
            self.effects.borrow_mut().push("of the dead".into());
            tell.send(()).unwrap();
            pending::<Result<(), WorkError<&str>>>().await
        };
        tokio::select! {
            verdict = self.consumer.handle(delivery, settle, work) => panic!("{verdict:?}"),
            told = half_way => told.unwrap(),
        }
    }
}

#[tokio::test]
async fn done_once_and_acknowledged_each_time() {
    let bench = Bench::new();
    let fate = Fate::Unknowable;
    assert_eq!(bench.deliver(1, fate, Ok(())).await, Verdict::Ack { now: true });
    assert_eq!(bench.deliver(2, fate, Ok(())).await, Verdict::Ack { now: false });
    assert_eq!((bench.effects(), bench.settled.get()), (1, 0));
    // Another message under its id.
    let other = Delivery { id: b"m1", body: b"two books", nth: None };
    let settle = async |_: &Held| fate;
    let verdict =
        bench.consumer.handle(other, settle, async |_: &mut Held| Ok::<_, WorkError<&str>>(()));
    assert_eq!(verdict.await, Verdict::Park { why: ParkReason::OtherMessage });
    let nameless = Delivery { id: b"", ..other };
    let work = async |_: &mut Held| Ok::<_, WorkError<&str>>(());
    let verdict = bench.consumer.handle(nameless, settle, work).await;
    assert!(matches!(verdict, Verdict::Park { why: ParkReason::Refused(_) }), "{verdict:?}");
}

#[tokio::test]
async fn what_did_nothing_runs_again_until_it_is_parked() {
    let bench = Bench::new();
    let nothing = || Err(WorkError::NothingDone("no connection"));
    for (nth, seconds) in [(1, 1), (2, 2), (3, 4)] {
        let verdict = bench.deliver(nth, Fate::Unknowable, nothing()).await;
        let why = NackReason::NothingDone("no connection".into());
        assert_eq!(verdict, Verdict::Nack { after: Duration::from_secs(seconds), why });
    }
    let parked = bench.deliver(4, Fate::Unknowable, nothing()).await;
    assert!(matches!(parked, Verdict::Park { why: ParkReason::TooOften(_) }), "{parked:?}");
    assert_eq!(bench.settled.get(), 0);
}

#[tokio::test]
async fn a_dead_consumer_s_message_is_settled() {
    for (fate, verdict, effects) in [
        (Fate::Happened, Verdict::Ack { now: false }, 1),
        (Fate::NothingHappened, Verdict::Ack { now: true }, 2),
        (Fate::Unknowable, Verdict::Park { why: ParkReason::Unknowable }, 1),
    ] {
        let bench = Bench::new();
        bench.die_in_the_middle().await;
        assert_eq!(bench.deliver(2, fate, Ok(())).await, verdict);
        assert_eq!((bench.effects(), bench.settled.get()), (effects, 1), "{fate:?}");
    }
}

#[tokio::test]
async fn what_can_t_be_found_out_now_is_asked_later() {
    let bench = Bench::new();
    bench.die_in_the_middle().await;
    let Verdict::Nack { after, why: NackReason::AskLater } =
        bench.deliver(2, Fate::AskLater, Ok(())).await
    else {
        panic!("not asked later")
    };
    assert!(!after.is_zero());
    // Not before that.
    let early = bench.deliver(3, Fate::Happened, Ok(())).await;
    assert!(matches!(early, Verdict::Nack { why: NackReason::AskLater, .. }), "{early:?}");
    assert_eq!(bench.settled.get(), 1);
    bench.clock.advance(after);
    assert_eq!(bench.deliver(4, Fate::Happened, Ok(())).await, Verdict::Ack { now: false });
    assert_eq!((bench.effects(), bench.settled.get()), (1, 2));
}

#[tokio::test]
async fn work_that_failed_half_way_is_settled_and_bounded() {
    let bench = Bench::new();
    let half_way = || Err(WorkError::Unknown("it broke"));
    for nth in 1..=3 {
        let verdict = bench.deliver(nth, Fate::NothingHappened, half_way()).await;
        assert!(
            matches!(verdict, Verdict::Nack { why: NackReason::Unknown(_), .. }),
            "{verdict:?}"
        );
    }
    let parked = bench.deliver(4, Fate::NothingHappened, half_way()).await;
    assert!(matches!(parked, Verdict::Park { why: ParkReason::TooOften(_) }), "{parked:?}");
}

#[tokio::test]
async fn a_batch_has_the_verdicts_of_its_messages() {
    let bench = Bench::new();
    let deliver = |id: &'static [u8]| Delivery { id, body: b"one book", nth: Some(1) };
    // One was done before, and one was begun by a consumer that has died.
    assert_eq!(bench.deliver(1, Fate::Unknowable, Ok(())).await, Verdict::Ack { now: true });
    let dying = async |_: &mut Held| {
        bench.effects.borrow_mut().push("of the dead".into());
        pending::<Result<(), WorkError<&str>>>().await
    };
    let settle = async |_: &Held| {
        bench.settled.set(bench.settled.get() + 1);
        Fate::Happened
    };
    tokio::select! {
        biased;
        verdict = bench.consumer.handle(deliver(b"begun"), settle, dying) => panic!("{verdict:?}"),
        () = async { while bench.effects() < 2 { tokio::task::yield_now().await } } => {}
    }
    let ids: [&[u8]; 8] = [b"a", b"m1", b"b", b"a", b"begun", b"", b"nothing", b"half"];
    let work = async |delivery: &Delivery<'_>, claim: &mut Held| match delivery.id {
        b"nothing" => Err(WorkError::NothingDone("no connection")),
        b"half" => Err(WorkError::Unknown("cut off")),
        _ => {
            bench.effects.borrow_mut().push(claim.derive_key("effect"));
            Ok(())
        }
    };
    let verdicts = bench.consumer.handle_batch(&ids.map(deliver), settle, work).await;
    let nack = |after, why| Verdict::Nack { after: Duration::from_secs(after), why };
    assert_eq!(verdicts[..3], [true, false, true].map(|now| Verdict::Ack { now }));
    assert_eq!(verdicts[3], nack(1, NackReason::InFlight));
    assert_eq!(verdicts[4], Verdict::Ack { now: false });
    assert!(matches!(verdicts[5], Verdict::Park { why: ParkReason::Refused(_) }));
    assert_eq!(verdicts[6], nack(1, NackReason::NothingDone("no connection".into())));
    assert_eq!(verdicts[7], nack(1, NackReason::Unknown("cut off".into())));
    assert_eq!((bench.effects(), bench.settled.get()), (4, 1));
    // Again, as a queue does that heard nothing.
    let again = bench
        .consumer
        .handle_batch(&ids[..3].iter().map(|id| deliver(id)).collect::<Vec<_>>(), settle, work)
        .await;
    assert!(again.iter().all(|verdict| *verdict == Verdict::Ack { now: false }));
    assert_eq!(bench.effects(), 4);
    assert!(bench.consumer.handle_batch(&[], settle, work).await.is_empty());
}
