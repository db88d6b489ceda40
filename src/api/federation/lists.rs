//! Lists of events that are read while they are sent: the state of a room with many members is never in memory as a
//! whole, however many ask for it.

use std::{io, iter, sync::Arc, vec};

use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;

use crate::{http::Reply, rooms::Rooms, store::schema::EventNo};

/// How many bytes are read together.
const PIECE: usize = 32 * 1024;

enum Part {
    Text(String),
    /// An event; whether a comma stands before it.
    Event(EventNo, bool),
}

/// A JSON object of such lists.
pub fn object<const N: usize>(rooms: &Arc<Rooms>, lists: [(&str, Vec<EventNo>); N]) -> Reply {
    let mut parts = Vec::new();
    let mut before = "{";
    for (name, numbers) in lists {
        parts.push(Part::Text(format!("{before}\"{name}\":[")));
        parts.extend(numbers.into_iter().enumerate().map(|(at, number)| Part::Event(number, at > 0)));
        before = "],";
    }
    parts.push(Part::Text("]}".to_owned()));
    let (rooms, mut parts) = (Arc::clone(rooms), parts.into_iter());
    let pieces = stream::iter(iter::from_fn(move || piece(&rooms, &mut parts)));
    Reply::stream(HeaderValue::from_static("application/json"), pieces)
}

fn piece(rooms: &Rooms, parts: &mut vec::IntoIter<Part>) -> Option<io::Result<Bytes>> {
    let mut text = String::new();
    while text.len() < PIECE
        && let Some(part) = parts.next()
    {
        match part {
            Part::Text(part) => text.push_str(&part),
            Part::Event(number, comma) => match rooms.known(number) {
                Ok(known) => text.extend([if comma { "," } else { "" }, known.event.json()]),
                Err(error) => return Some(Err(io::Error::other(error))),
            },
        }
    }
    (!text.is_empty()).then(|| Ok(text.into()))
}
