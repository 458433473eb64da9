//! The search for an order that explains a history.

use super::{Event, Op, Ret, Spec};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use std::collections::{BTreeMap, HashMap};

/// Whether some order of the calls explains their answers.
pub fn is_explained(events: &[Event]) -> bool {
    let calls = calls(events);
    let explained = leads_on(&calls, 0, &Spec::default(), &mut HashMap::new());
    if calls.len() <= SHORT {
        assert_eq!(explained, tester_explains(events), "{events:#?}");
    }
    explained
}

/// So many calls at the most `stateright`'s tester is asked about, which tries order by order.
const SHORT: usize = 10;

/// A call of a history. Sets of calls are bits.
struct Call {
    op: Op,
    ret: Ret,
    /// Those that had been answered when it began.
    after: u128,
}

fn calls(events: &[Event]) -> Vec<Call> {
    let (mut calls, mut open, mut answered) = (Vec::new(), BTreeMap::new(), 0);
    for (line, event) in events {
        match event {
            Ok(op) => {
                assert_eq!(open.insert(line, calls.len()), None, "a line has one call at a time");
                calls.push(Call { op: *op, ret: Ret::Done, after: answered });
            }
            Err(ret) => {
                let at: usize = open.remove(line).expect("answered once");
                calls[at].ret = *ret;
                answered |= 1 << at;
            }
        }
    }
    assert!(open.is_empty() && calls.len() <= 128, "every call has been answered");
    calls
}

/// Whether some order of the calls that are not in `done` yet leads on from `spec`. `tried` has
/// from where none does.
fn leads_on(calls: &[Call], done: u128, spec: &Spec, tried: &mut HashMap<u128, Vec<Spec>>) -> bool {
    if done.count_ones() as usize == calls.len() {
        return true;
    }
    let known = tried.entry(done).or_default();
    if known.contains(spec) {
        return false;
    }
    known.push(spec.clone());
    calls.iter().enumerate().any(|(at, call)| {
        let next = done | 1 << at;
        let may_be_next = next != done && call.after & !done == 0;
        may_be_next && {
            let mut spec = spec.clone();
            spec.is_valid_step(&call.op, &call.ret) && leads_on(calls, next, &spec, tried)
        }
    })
}

fn tester_explains(events: &[Event]) -> bool {
    let mut tester = LinearizabilityTester::new(Spec::default());
    for (line, event) in events {
        let fits = match event {
            Ok(op) => tester.on_invoke(*line, *op).map(drop),
            Err(ret) => tester.on_return(*line, *ret).map(drop),
        };
        fits.expect("a line has one call at a time");
    }
    tester.serialized_history().is_some()
}
