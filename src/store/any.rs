//! A backend chosen at run time.

use crate::{
    error::{BeginError, ClaimError, StoreError},
    key::{OwnedKey, Scope},
    spi::{Abandon, ClaimOp, Erased, Found, IdempotencyStore, Request, Terms, Ticket},
    token::Token,
};
use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`IdempotencyStore`] in a form that can be a trait object.
trait Object: Send + Sync {
    fn begin<'a>(&'a self, request: &'a Request) -> Boxed<'a, Result<Found, BeginError>>;
    fn take_over<'a>(
        &'a self,
        request: &'a Request,
        seen: Token,
    ) -> Boxed<'a, Result<Found, BeginError>>;
    fn write<'a>(
        &'a self,
        ticket: &'a Ticket,
        op: ClaimOp<'a>,
    ) -> Boxed<'a, Result<(), ClaimError>>;
    fn begin_many<'a>(
        &'a self,
        requests: &'a [Request],
    ) -> Boxed<'a, Vec<Result<Found, BeginError>>>;
    fn write_many<'a>(
        &'a self,
        writes: &'a [(&'a Ticket, ClaimOp<'a>)],
    ) -> Boxed<'a, Vec<Result<(), ClaimError>>>;
    fn changed<'a>(
        &'a self,
        request: &'a Request,
        seen: Token,
        at_most: Duration,
    ) -> Boxed<'a, bool>;
    fn look<'a>(&'a self, key: &'a OwnedKey) -> Boxed<'a, Result<Option<Found>, BeginError>>;
    fn erase_scope<'a>(
        &'a self,
        scope: &'a Scope,
        force: bool,
    ) -> Boxed<'a, Result<Erased, StoreError>>;
    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError>;
    fn now(&self) -> Duration;
    fn abandon(&self, ticket: &Ticket, how: Abandon);
}

impl<S: IdempotencyStore> Object for S {
    fn begin<'a>(&'a self, request: &'a Request) -> Boxed<'a, Result<Found, BeginError>> {
        Box::pin(IdempotencyStore::begin(self, request))
    }

    fn take_over<'a>(
        &'a self,
        request: &'a Request,
        seen: Token,
    ) -> Boxed<'a, Result<Found, BeginError>> {
        Box::pin(IdempotencyStore::take_over(self, request, seen))
    }

    fn write<'a>(
        &'a self,
        ticket: &'a Ticket,
        op: ClaimOp<'a>,
    ) -> Boxed<'a, Result<(), ClaimError>> {
        Box::pin(IdempotencyStore::write(self, ticket, op))
    }

    fn begin_many<'a>(
        &'a self,
        requests: &'a [Request],
    ) -> Boxed<'a, Vec<Result<Found, BeginError>>> {
        Box::pin(IdempotencyStore::begin_many(self, requests))
    }

    fn write_many<'a>(
        &'a self,
        writes: &'a [(&'a Ticket, ClaimOp<'a>)],
    ) -> Boxed<'a, Vec<Result<(), ClaimError>>> {
        Box::pin(IdempotencyStore::write_many(self, writes))
    }

    fn changed<'a>(
        &'a self,
        request: &'a Request,
        seen: Token,
        at_most: Duration,
    ) -> Boxed<'a, bool> {
        Box::pin(IdempotencyStore::changed(self, request, seen, at_most))
    }

    fn look<'a>(&'a self, key: &'a OwnedKey) -> Boxed<'a, Result<Option<Found>, BeginError>> {
        Box::pin(IdempotencyStore::look(self, key))
    }

    fn erase_scope<'a>(
        &'a self,
        scope: &'a Scope,
        force: bool,
    ) -> Boxed<'a, Result<Erased, StoreError>> {
        Box::pin(IdempotencyStore::erase_scope(self, scope, force))
    }

    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        IdempotencyStore::terms_in_force(self, terms)
    }

    fn now(&self) -> Duration {
        IdempotencyStore::now(self)
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        IdempotencyStore::abandon(self, ticket, how);
    }
}

/// Any backend, as one type: for a service that chooses by its configuration. One allocation a
/// call more expensive than the backend itself.
#[derive(Clone)]
pub struct AnyStore(Arc<dyn Object>);

impl AnyStore {
    /// Wraps a backend.
    pub fn new(backend: impl IdempotencyStore) -> Self {
        AnyStore(Arc::new(backend))
    }
}

impl fmt::Debug for AnyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyStore")
    }
}

impl IdempotencyStore for AnyStore {
    async fn begin(&self, request: &Request) -> Result<Found, BeginError> {
        self.0.begin(request).await
    }

    async fn take_over(&self, request: &Request, seen: Token) -> Result<Found, BeginError> {
        self.0.take_over(request, seen).await
    }

    async fn write(&self, ticket: &Ticket, op: ClaimOp<'_>) -> Result<(), ClaimError> {
        self.0.write(ticket, op).await
    }

    async fn begin_many(&self, requests: &[Request]) -> Vec<Result<Found, BeginError>> {
        self.0.begin_many(requests).await
    }

    async fn write_many(&self, writes: &[(&Ticket, ClaimOp<'_>)]) -> Vec<Result<(), ClaimError>> {
        self.0.write_many(writes).await
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    async fn changed(&self, request: &Request, seen: Token, at_most: Duration) -> bool {
        self.0.changed(request, seen, at_most).await
    }

    async fn look(&self, key: &OwnedKey) -> Result<Option<Found>, BeginError> {
        self.0.look(key).await
    }

    async fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        self.0.erase_scope(scope, force).await
    }

    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        self.0.terms_in_force(terms)
    }

    fn now(&self) -> Duration {
        self.0.now()
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        self.0.abandon(ticket, how);
    }
}
