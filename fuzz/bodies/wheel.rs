//! The timing wheel against a sorted map.
//!
//! An input is: start u64, then calls: 0 insert after 2^(byte % 64) + u16 - 2^15, 1 cancel,
//! 2 advance by as much, 3 advance to the next wakeup.

use super::input::Input;
use onlyonce::internals::fuzzing::Wheel;
use std::collections::BTreeMap;

/// Each timer fires once, at the first instant at which it is due, or is cancelled.
pub fn wheel(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut now = input.number::<8>();
    let mut wheel = Wheel::new(now);
    let mut deadlines = Vec::new();
    let mut pending: BTreeMap<(u64, usize), ()> = BTreeMap::new();
    while !input.is_empty() {
        match input.below(4) {
            0 => {
                let deadline = at(&mut input, now);
                let timer = wheel.insert(deadline);
                assert_eq!(timer, deadlines.len());
                deadlines.push(deadline);
                pending.insert((deadline, timer), ());
            }
            1 if !deadlines.is_empty() => {
                let timer = input.number::<2>() as usize % deadlines.len();
                let was_pending = pending.remove(&(deadlines[timer], timer)).is_some();
                assert_eq!(wheel.cancel(timer), was_pending);
            }
            1 => {}
            what => {
                let to = match what {
                    2 => at(&mut input, now),
                    _ => wheel.next_wakeup().unwrap_or(now),
                };
                let mut fired = wheel.advance(to);
                now = now.max(to);
                let later = match now.checked_add(1) {
                    Some(later) => pending.split_off(&(later, 0)),
                    None => BTreeMap::new(),
                };
                // A call that goes back does nothing, also not for what is overdue.
                let due = match to < now {
                    true => BTreeMap::new(),
                    false => std::mem::replace(&mut pending, later.clone()),
                };
                pending.extend(later);
                fired.sort();
                let mut due: Vec<_> = due.into_keys().map(|(_, timer)| timer).collect();
                due.sort();
                assert_eq!(fired, due, "at {now}");
            }
        }
        let first = pending.keys().next().map(|(deadline, _)| *deadline);
        let wakeup = wheel.next_wakeup();
        assert_eq!(wakeup.is_some(), first.is_some());
        if let (Some(wakeup), Some(first)) = (wakeup, first) {
            assert!(wakeup <= first.max(now), "sleeps until {wakeup}, over {first}");
            assert!(wakeup > now || first <= now, "wakes for nothing");
        }
    }
}

/// A time around here.
fn at(input: &mut Input, now: u64) -> u64 {
    let far = 1_u64 << input.below(64);
    let near = input.number::<2>();
    now.saturating_add(far).saturating_add(near).saturating_sub(1 << 15)
}
