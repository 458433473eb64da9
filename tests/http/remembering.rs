//! H23: late retries.

use crate::service::*;

use onlyonce::{ManualClock, Retention};
use std::time::Duration;

#[tokio::test]
async fn replayed_then_remembered_then_forgotten() {
    let clock = ManualClock::at(1_000_000);
    let store = store_at(&clock);
    let orders = handler(|_| async { with(answer(201, "order"), "location", "/orders/1") });
    let windows = Retention { replay_for: HOUR, remember_for: 3 * HOUR };
    let layer = layer(&store).retention(windows).clock(clock.clone());
    let service = behind(&layer, &orders);
    send(&service, post("k")).await;
    clock.advance(HOUR - Duration::from_millis(1));
    let got = send(&service, post("k")).await;
    assert_eq!((got.is_replay(), got.header("age")), (true, Some("3599")));
    // Its record keeps the segment from being swept before the last request comes.
    send(&service, post("later")).await;
    clock.advance(Duration::from_millis(1));
    let got = send(&service, post("k")).await;
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (409, "not-retained"));
    assert_eq!(got.json()["original_status"], 201);
    assert_eq!((got.header("location"), got.retryable()), (Some("/orders/1"), false));
    assert_eq!(orders.runs(), 2);
    clock.advance(2 * HOUR);
    assert_eq!(send(&service, post("k")).await.status, 201);
    assert_eq!((orders.runs(), store.stats().began_after_expiry), (3, 1));
}
