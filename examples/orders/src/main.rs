//! An HTTP order service on an idempotency store: a retried `POST /orders` is answered again, not
//! executed again. `serve` runs it, `demo` tries to make it break that promise.

mod admin;
mod backend;
mod demo;
mod http;
mod observe;
mod orders;
mod serve;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// An order service whose retried requests take effect once.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve orders over HTTP.
    Serve(serve::Serve),
    /// Storm a server with duplicate requests, kill it again and again, and prove that every
    /// order exists exactly once.
    Demo(demo::Demo),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new().expect("the system starts threads");
    let ended = runtime.block_on(async {
        match args.command {
            Command::Serve(serve) => serve::run(&serve).await.map(|()| ExitCode::SUCCESS),
            Command::Demo(demo) => demo::run(&demo).await,
        }
    });
    // Threads that still block are not waited for.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
