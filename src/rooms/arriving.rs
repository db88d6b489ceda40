//! Events that arrive in masses, in one long answer of another server: cut out of it as it comes, and checked on
//! all cores meanwhile.
//!
//! How much waits in between is bounded: a server is read no faster than its events are checked and taken.
//!
//! Spec: server-server-api#validating-hashes-and-signatures-on-received-events

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use ruma::OwnedServerName;
use tokio::sync::mpsc;

use super::{
    Rooms,
    admit::{self, Checked},
};
use crate::{
    protocol::{
        pieces::{Piece, PieceError, Pieces},
        version::Rules,
    },
    remote::{RemoteError, transport::Body},
};

/// How many events are checked on one thread at a time.
const BATCH: usize = 128;
/// How many such batches are at work at the same time; most of them may wait for keys.
const BATCHES: usize = 8;
/// How long one event may be, with all that other servers add to it.
const LONGEST: usize = 256 * 1024;
/// How many bytes of an answer besides its events are kept.
const MOST_BESIDES: usize = 8 * 1024 * 1024;

/// Events that have been checked, and the list in the answer that they stood in.
pub type Batch = (Arc<str>, Checked);

/// Reads an answer. The entries of `lists` are events; they go to `to` once format, signature and hash have been
/// checked, and what fails is left out. Everything else in the answer is returned.
pub async fn read(
    rooms: &Arc<Rooms>,
    rules: &'static Rules,
    mut body: Body,
    lists: &[&str],
    to: mpsc::Sender<Batch>,
) -> Result<Vec<Piece>, RemoteError> {
    let nonsense = |error: PieceError| RemoteError::Nonsense(error.to_string());
    let tried: Arc<Mutex<HashSet<OwnedServerName>>> = Arc::default();
    let check = |field: Arc<str>, pdus: Vec<String>| {
        let (rooms, tried) = (Arc::clone(rooms), Arc::clone(&tried));
        tokio::spawn(async move { (field, admit::texts(&rooms, pdus, rules, &tried).await) })
    };
    let mut pieces = Pieces::new(LONGEST);
    let (mut besides, mut bytes_besides) = (Vec::new(), 0);
    let mut open: Option<(Arc<str>, Vec<String>)> = None;
    let mut working = FuturesUnordered::new();
    while let Some(bytes) = body.next().await {
        let mut ready = Vec::new();
        let found = |piece: Piece| {
            if !lists.contains(&&*piece.field) {
                bytes_besides += piece.json.len();
                besides.push(piece);
                return;
            }
            let (field, pdus) = open.get_or_insert_with(|| (Arc::clone(&piece.field), Vec::with_capacity(BATCH)));
            match *field == piece.field {
                true => pdus.push(piece.json),
                false => ready.extend(open.replace((piece.field, vec![piece.json]))),
            }
            ready.extend(open.take_if(|(_, pdus)| pdus.len() >= BATCH));
        };
        pieces.push(&bytes.map_err(RemoteError::Failed)?, found).map_err(nonsense)?;
        if bytes_besides > MOST_BESIDES {
            return Err(nonsense(PieceError::TooLong));
        }
        for (field, pdus) in ready {
            while working.len() >= BATCHES {
                hand_on(working.next().await, &to).await;
            }
            working.push(check(field, pdus));
        }
    }
    pieces.finish().map_err(nonsense)?;
    working.extend(open.map(|(field, pdus)| check(field, pdus)));
    while !working.is_empty() {
        hand_on(working.next().await, &to).await;
    }
    Ok(besides)
}

async fn hand_on(batch: Option<Result<Batch, tokio::task::JoinError>>, to: &mpsc::Sender<Batch>) {
    // Whoever no longer wants the events gets none; they are read to the end of what is bounded anyway.
    if let Some(Ok(batch)) = batch {
        to.send(batch).await.ok();
    }
}
