//! A call on its way from the caller and back: its span, and how long it takes.

use super::{Timed, Timings, timings::Started};

/// The span and the time of a call that may wait. Nothing without the features.
pub(crate) struct Call {
    pub span: CallSpan,
    pub watch: Watch,
}

/// How long a call takes.
pub(crate) struct Watch {
    timed: Option<Timed>,
    started: Started,
}

/// Everything that a call does happens in its span.
pub(crate) struct CallSpan {
    /// Only if a subscriber wants it: a call without one is smaller.
    #[cfg(feature = "tracing")]
    span: Option<Box<tracing::Span>>,
}

/// The guard of a span: it is entered until this is dropped.
#[must_use]
pub(crate) struct Entered<'a> {
    #[cfg(feature = "tracing")]
    _in: Option<tracing::span::Entered<'a>>,
    #[cfg(not(feature = "tracing"))]
    _in: std::marker::PhantomData<&'a ()>,
}

impl Call {
    /// A call that is not timed.
    pub fn plain(timings: &Timings, what: &'static str, hash: u64) -> Self {
        Call::new(timings, None, what, hash)
    }

    /// A `begin` or a takeover.
    pub fn begin(timings: &Timings, hash: u64) -> Self {
        Call::new(timings, Some(Timed::Begin), "begin", hash)
    }

    /// A completion.
    pub fn complete(timings: &Timings, hash: u64) -> Self {
        Call::new(timings, Some(Timed::Complete), "complete", hash)
    }

    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    #[inline]
    fn new(timings: &Timings, timed: Option<Timed>, what: &'static str, hash: u64) -> Self {
        let span = CallSpan {
            #[cfg(feature = "tracing")]
            span: span_of(what, hash),
        };
        Call { span, watch: Watch { timed, started: timings.start() } }
    }
}

#[cfg(feature = "tracing")]
#[inline]
fn span_of(what: &'static str, hash: u64) -> Option<Box<tracing::Span>> {
    use tracing::level_filters::LevelFilter;
    match LevelFilter::current() < LevelFilter::DEBUG {
        true => None,
        false => new_span(what, hash),
    }
}

#[cfg(feature = "tracing")]
#[cold]
fn new_span(what: &'static str, hash: u64) -> Option<Box<tracing::Span>> {
    let key = super::events::KeyHash(hash);
    let span = tracing::debug_span!(target: "onlyonce", "call", what, %key);
    (!span.is_disabled()).then(|| Box::new(span))
}

impl CallSpan {
    #[inline]
    pub fn enter(&self) -> Entered<'_> {
        Entered {
            #[cfg(feature = "tracing")]
            _in: self.span.as_ref().map(|span| span.enter()),
            #[cfg(not(feature = "tracing"))]
            _in: std::marker::PhantomData,
        }
    }
}

impl Watch {
    /// It is answered.
    pub fn answered(&self, timings: &Timings) {
        if let Some(timed) = self.timed {
            timings.end(timed, self.started);
        }
    }
}
