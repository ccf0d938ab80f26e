//! A small service as people write them: axum on tokio, `tracing` in the handlers, `log` in a library below.
//! It replaces its logger by spillring in one line.

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use std::io::Write;
use tracing::Instrument;

/// Stands for a library that logs through the `log` crate.
mod store {
    pub async fn put(id: u64) {
        // Gives its thread away, so that the request goes on elsewhere.
        tokio::task::yield_now().await;
        log::info!(order = id; "stored");
    }
}

async fn order(Path(id): Path<u64>) -> String {
    let span = tracing::info_span!("request", id, status = tracing::field::Empty);
    async move {
        tracing::info!(route = "/order", "accepted");
        store::put(id).instrument(tracing::debug_span!("store")).await;
        tracing::Span::current().record("status", 200);
        tracing::info!("done {}", id);
        format!("ok {id}")
    }
    .instrument(span)
    .await
}

/// Serves until it is killed; says on stdout where.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _log = spillring::adapter::tracing::init()?;
    spillring::adapter::log::install()?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("\nlistening {}", listener.local_addr()?.port());
        std::io::stdout().flush()?;
        axum::serve(listener, Router::new().route("/order/{id}", get(order))).await?;
        Ok(())
    })
}
