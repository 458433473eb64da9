//! A world that fails is made smaller for as long as a smaller one fails too: fewer callers, calls
//! and kinds of calls, fewer faults. The world that is left, and its story, are printed.

use super::{Crash, LAST, World, common::schedules, one_world};
use onlyonce::Durability;
use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

/// Worlds are this one, and not drawn, while it is set.
pub static FORCED: Mutex<Option<World>> = Mutex::new(None);

/// How schedules of this world fail, of each of these seeds the first: the story, and what is wrong
/// with it. The shortest; `None` if none of so many fails.
fn failure(world: World, schedules: usize, seeds: Range<u64>) -> Option<String> {
    *FORCED.lock().unwrap() = Some(world);
    let fails = |seed| {
        let run = || schedules::run(schedules, seed, true, one_world);
        let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or(panic.downcast_ref::<&str>().map(|said| said.to_string()));
        let story = LAST.lock().unwrap().1.clone().map_or(String::new(), |s| s.tell());
        let said = said.unwrap_or_default();
        Some(format!("{story}{}", said.lines().next().unwrap_or_default().trim_end_matches(':')))
    };
    let shortest = seeds.filter_map(fails).min_by_key(|told| told.lines().count());
    *FORCED.lock().unwrap() = None;
    shortest
}

/// The same text with the numbers behind this word counted from 1.
fn renumbered(text: &str, word: &str) -> String {
    let mut known: Vec<&str> = Vec::new();
    let mut pieces = text.split(word);
    let mut told = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len());
        let (number, rest) = piece.split_at(end);
        told.push_str(word);
        if !number.is_empty() {
            let at = known.iter().position(|of| *of == number).unwrap_or(known.len());
            if at == known.len() {
                known.push(number);
            }
            told.push_str(&(at + 1).to_string());
        }
        told.push_str(rest);
    }
    told
}

/// What is particular about a world.
fn described(world: World) -> String {
    let of =
        |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut parts = vec![
        format!("{:?}", world.durability),
        of(world.callers, "caller"),
        of(world.calls, "call") + " each",
        of(world.keys, "key"),
    ];
    let flags = [
        (world.operators, "operators"),
        (world.tasks, "tasks"),
        (world.large, "large responses"),
        (world.expires, "records expire"),
        (world.other_class, "another retention"),
        (world.fails, "a call to the disk fails"),
        (world.forgets, "and takes pages out of the cache"),
        (world.struck, "the next opening is struck"),
        (world.copies, "backups"),
        (world.reopens, "closed and opened again"),
        (world.fills, "many keys"),
        (world.erases, "the scope is erased"),
        (!world.slow.is_empty(), "slow syncs"),
    ];
    parts.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| name.to_string()));
    parts.join(", ")
}

/// The worlds that are a little smaller.
fn smaller(world: World) -> Vec<World> {
    let mut all = Vec::new();
    let mut add = |other: World| {
        if format!("{other:?}") != format!("{world:?}") {
            all.push(other);
        }
    };
    add(World { callers: (world.callers - 1).max(1), ..world });
    add(World { keys: 1, ..world });
    add(World { calls: (world.calls / 2).max(1), ..world });
    add(World { calls: (world.calls - 1).max(1), ..world });
    add(World { slow: "", ..world });
    add(World { fails: false, forgets: false, ..world });
    add(World { forgets: false, ..world });
    add(World { struck: false, ..world });
    add(World { copies: false, ..world });
    add(World { reopens: false, ..world });
    add(World { fills: false, ..world });
    add(World { erases: false, ..world });
    add(World { expires: false, ..world });
    add(World { large: false, ..world });
    add(World { other_class: false, ..world });
    add(World { tasks: false, ..world });
    add(World { operators: false, ..world });
    add(World { crash: Crash::Kill, ..world });
    add(World { durability: Durability::Synced, ..world });
    all
}

/// Tells of the smallest world that fails.
pub fn tell_smallest(mut world: World, schedules: usize) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = None;
    'smaller: loop {
        for other in smaller(world) {
            if let Some(why) = failure(other, schedules / 2, 1..3) {
                (world, found) = (other, Some(why));
                continue 'smaller;
            }
        }
        break;
    }
    let shorter = found.as_ref().and_then(|_| failure(world, schedules / 2, 3..10));
    let told = found.into_iter().chain(shorter).min_by_key(|told| told.lines().count());
    std::panic::set_hook(hook);
    match told {
        Some(told) => {
            let told = renumbered(&renumbered(&told, "token "), "response ");
            println!("\nThe smallest world that was found to fail ({}):\n{told}", described(world));
        }
        None => println!("\nno smaller world was found to fail"),
    }
}
