//! Compares the orders database with what was sent and answered.

use super::{client::Answer, storm::Storm};
use crate::{backend::Choice, orders::Order};
use anyhow::Context;
use std::{collections::HashMap, path::Path, time::Duration};

/// What was found.
#[derive(Debug, Default)]
pub struct Proof {
    /// Orders of this run in the database.
    found: u64,
    /// Orders beyond the first for one key.
    duplicates: u64,
    /// Keys without an order.
    missing: u64,
    /// Answers that differ from an earlier one for the same key.
    differing: u64,
    /// Keys whose answer doesn't tell of the order in the database.
    untrue: u64,
    /// Keys that were answered more than once as if they had just been executed.
    executed_again: u64,
    /// Unexpected answers, and clients that never got any.
    not_served: u64,
}

impl Proof {
    /// Reads the database of the stopped server.
    pub async fn of(storm: &Storm, choice: &Choice, dir: &Path) -> anyhow::Result<Self> {
        let orders = choice.orders(dir).await?.all(&storm.run).await;
        let orders = orders.context("reading the orders database")?;
        let tally = storm.counted();
        let mut proof = Proof {
            found: orders.len() as u64,
            not_served: tally.unanswered + tally.unexpected.len() as u64,
            ..Proof::default()
        };
        let mut by_item: HashMap<&str, Vec<&Order>> = HashMap::new();
        for order in &orders {
            by_item.entry(&order.item).or_default().push(order);
        }
        for sent in &storm.sent {
            let taken = by_item.remove(&*sent.order.item).unwrap_or_default();
            let seen = sent.seen();
            proof.missing += u64::from(taken.is_empty());
            proof.duplicates += taken.len().saturating_sub(1) as u64;
            proof.differing += u64::from(seen.differing);
            proof.executed_again += u64::from(seen.executions > 1);
            if let Some(answer) = &seen.answer {
                proof.untrue += u64::from(!taken.iter().any(|order| tells_of(answer, order)));
            }
        }
        // Orders that no client sent.
        proof.untrue += by_item.len() as u64;
        Ok(proof)
    }

    /// Whether every key has exactly one order and exactly one answer.
    pub fn holds(&self) -> bool {
        let Proof { found: _, duplicates, missing, differing, untrue, executed_again, not_served } =
            self;
        [duplicates, missing, differing, untrue, executed_again, not_served]
            .into_iter()
            .all(|breaches| *breaches == 0)
    }

    /// Prints all that a person wants to know.
    pub fn print(&self, storm: &Storm, took: Duration) {
        let tally = storm.counted();
        println!();
        for (what, number) in [
            ("requests sent", tally.sent),
            ("  executed first", tally.first),
            ("  replayed", tally.replayed),
            ("  sent away while it ran (409)", tally.conflicts),
            ("  client hung up before the answer", tally.hung_up),
            ("  connection refused or broken", tally.broken),
            ("  failed (500, 503)", tally.failed),
            (storm.killed, tally.kills),
            ("  requests found half done afterwards", tally.interrupted),
            ("orders sent, each with its own key", storm.sent.len() as u64),
            ("orders in the database", self.found),
        ] {
            println!("  {what:<40} {number:>9}");
        }
        println!();
        for (what, breaches) in [
            ("duplicate orders", self.duplicates),
            ("keys without an order", self.missing),
            ("answers that differ", self.differing),
            ("answers that don't match the database", self.untrue),
            ("keys executed more than once", self.executed_again),
            ("requests never answered as they should", self.not_served),
        ] {
            let mark = match breaches {
                0 => "ok",
                _ => "BROKEN",
            };
            println!("  {what:<40} {breaches:>9}  {mark}");
        }
        for text in tally.unexpected.iter().take(5) {
            println!("  unexpected answer {}", text.trim_end());
        }
        println!();
        let seconds = took.as_secs_f64();
        match self.holds() {
            true => println!(
                "VERDICT: every key has exactly one order, and every answer was the same again \
                 ({seconds:.1} s)"
            ),
            false => println!("VERDICT: THE PROMISE WAS BROKEN, see above ({seconds:.1} s)"),
        }
    }
}

fn tells_of(answer: &Answer, order: &Order) -> bool {
    let location = format!("/orders/{}", order.id);
    let body = serde_json::to_value(order).ok();
    answer.headers.iter().any(|(name, value)| name == "location" && value == location.as_bytes())
        && body.is_some()
        && body == serde_json::from_slice(&answer.body).ok()
}
