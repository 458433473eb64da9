//! The executions that run, so that a shutdown can wait for those whose client has gone.

use futures_channel::oneshot;
use parking_lot::Mutex;
use std::sync::Arc;

/// Executions that run.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    count: u64,
    draining: bool,
    idle: Vec<oneshot::Sender<()>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Run(Arc<Running>);

impl Running {
    /// One more; `None` if no more may start.
    pub fn start(self: &Arc<Self>) -> Option<Run> {
        let mut state = self.0.lock();
        if state.draining {
            return None;
        }
        state.count += 1;
        Some(Run(self.clone()))
    }

    /// No more may start. Resolves when none runs.
    pub fn drain(&self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let mut state = self.0.lock();
        state.draining = true;
        match state.count {
            0 => _ = tell.send(()),
            _ => state.idle.push(tell),
        }
        told
    }

    pub fn is_draining(&self) -> bool {
        self.0.lock().draining
    }

    pub fn count(&self) -> u64 {
        self.0.lock().count
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let idle = {
            let mut state = self.0.0.lock();
            state.count -= 1;
            match state.count {
                0 => std::mem::take(&mut state.idle),
                _ => Vec::new(),
            }
        };
        idle.into_iter().for_each(|tell| _ = tell.send(()));
    }
}
