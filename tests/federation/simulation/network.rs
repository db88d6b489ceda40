//! The wires between simulated servers: letters that are lost, late or overtaken.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use ingle::remote::transport::{Answer, Exchange, Failure, Outgoing, Transport};
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinHandle};

/// What a request comes back with.
pub type Reply = Result<Answer, Failure>;

/// A request on its way.
pub struct Letter {
    pub from: usize,
    pub request: Outgoing,
    pub reply: oneshot::Sender<Reply>,
}

/// One server's way to the others: it puts letters into the common box.
pub struct Wire {
    pub from: usize,
    pub letters: Arc<Mutex<Vec<Letter>>>,
}

impl Transport for Wire {
    fn send(&self, request: Outgoing) -> Exchange<'_> {
        let timeout = request.timeout;
        let (reply, answer) = oneshot::channel();
        self.letters.lock().push(Letter { from: self.from, request, reply });
        Box::pin(async move {
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(Failure::Unreachable("the letter was lost".to_owned())),
                Err(_) => Err(Failure::TimedOut),
            }
        })
    }
}

/// Where a letter is.
pub enum Journey {
    /// On the way to the server that is asked.
    Out { due: u64, letter: Letter },
    /// That server works on it.
    There { from: usize, to: usize, work: JoinHandle<Response<Bytes>>, limit: usize, reply: oneshot::Sender<Reply> },
    /// The answer is on its way back.
    Back { due: u64, answer: Reply, reply: oneshot::Sender<Reply> },
}

/// How it is between two servers, in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// Nothing comes through.
    pub cut: bool,
    /// Of a hundred letters, so many are lost.
    pub loss: u32,
    /// How long a letter takes at most, in milliseconds.
    pub delay: u64,
}

/// An answer as the asking server sees it.
pub fn answer(response: Response<Bytes>, limit: usize) -> Reply {
    let (parts, body) = response.into_parts();
    match body.len() > limit {
        true => Err(Failure::TooLarge),
        false => Ok(Answer { status: parts.status, headers: parts.headers, body }),
    }
}

/// What a sender learns of a letter that never arrives: nothing for long, or that nobody is there.
pub fn lost(reply: oneshot::Sender<Reply>, told: bool) -> Option<oneshot::Sender<Reply>> {
    if told {
        drop(reply.send(Err(Failure::Unreachable("nobody is there".to_owned()))));
        return None;
    }
    Some(reply)
}

/// How long a tick is while something is on its way.
pub const TICK: Duration = Duration::from_millis(10);
