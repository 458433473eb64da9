//! A world that fails is made smaller for as long as a smaller one fails too: fewer callers, calls
//! and kinds of calls, fewer faults. The world that is left, and its story, are printed.

use super::{Crash, LAST, World, common::schedules, one_world};
use onlyonce::Durability;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

/// Worlds are this one, and not drawn, while it is set.
pub static FORCED: Mutex<Option<World>> = Mutex::new(None);

/// How a schedule of this world fails; `None` if none of so many does.
fn failure(world: World, schedules: usize) -> Option<String> {
    *FORCED.lock().unwrap() = Some(world);
    let mut why = None;
    for seed in 1..=2 {
        let run = || schedules::run(schedules / 2, seed, true, one_world);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or(panic.downcast_ref::<&str>().map(|said| said.to_string()));
            let story = LAST.lock().unwrap().1.clone().map_or(String::new(), |s| s.tell());
            why = Some(format!("{}\n{story}", said.unwrap_or_default().lines().next().unwrap()));
            break;
        }
    }
    *FORCED.lock().unwrap() = None;
    why
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
            if let Some(why) = failure(other, schedules) {
                (world, found) = (other, Some(why));
                continue 'smaller;
            }
        }
        break;
    }
    std::panic::set_hook(hook);
    match found {
        Some(why) => println!("\nThe smallest world that was found to fail: {world:?}\n{why}"),
        None => println!("\nno smaller world was found to fail"),
    }
}
