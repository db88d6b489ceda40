//! Work that takes the processor or the disk for a while, away from the threads that answer.
//!
//! On a runtime of a single thread the work is done at once instead: there everything happens in one order,
//! so that a simulation with a seed is a reproduction. The server itself never runs on such a runtime.

use std::future::Future;

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::spawn_blocking,
};

use crate::error::{Error, Result};

/// Begins the work now, wherever the future is awaited; it goes on even if nobody does.
///
/// Errors: 500, if the work panicked.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = Result<T>> + Send {
    let begun = match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => Err(spawn_blocking(work)),
    };
    async move {
        match begun {
            Ok(done) => Ok(done),
            Err(task) => task.await.map_err(Error::internal),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_server_goes_on_answering_meanwhile() {
        assert_ne!(run(|| thread::current().id()).await.unwrap(), thread::current().id());
    }

    #[tokio::test]
    async fn in_a_simulation_there_is_one_order() {
        assert_eq!(run(|| thread::current().id()).await.unwrap(), thread::current().id());
    }
}
