//! The store as a publisher of metrics sees it: what this process has counted.

use super::{
    connection::Pool,
    counts::wall_ms,
    store::{Inner, SqlStore},
};
use crate::{
    error::StoreError,
    observe::Timings,
    operate::{Figures, Source, TableFigures, Watched},
    stats::Stats,
};
use std::sync::Arc;

impl<P: Pool> From<&SqlStore<P>> for Source {
    fn from(store: &SqlStore<P>) -> Self {
        let inner = Arc::downgrade(&store.0);
        Source::of(move || {
            let inner = inner.upgrade()?;
            Some(Box::new(Open(inner)) as Box<dyn Watched>)
        })
    }
}

struct Open<P: Pool>(Arc<Inner<P>>);

impl<P: Pool> Watched for Open<P> {
    fn timings(&self) -> &Timings {
        &self.0.counting.timings
    }

    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn figures_at_hand(&self) -> Figures {
        let counts = self.0.counting.counts();
        let stats = Stats { now_ms: wall_ms(), ..self.0.counting.stats() };
        let table = TableFigures {
            ends_under_way: self.0.behind.count(),
            swept: counts.rows_swept,
            postponed: counts.rows_postponed,
            ..TableFigures::default()
        };
        Figures { stats, scopes: Vec::new(), table: Some(table) }
    }
}
