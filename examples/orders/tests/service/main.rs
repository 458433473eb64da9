//! The built service, from outside: over real sockets, killed by real signals.

mod admin;
mod answers;
mod demo;
mod interrupted;
mod metrics;
mod over_postgres;
mod server;
