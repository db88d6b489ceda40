//! Events that are sent later, unless somebody calls them off: how a client that breaks off leaves a call.
//!
//! A delayed event is a row. [`send_due`] sends what is due; whoever is allowed to say so sends it earlier,
//! calls it off, or lets its time begin anew ([`act`]). The event and the row that says that it was sent are
//! one `Write`, so it is sent once, whatever happens. Whether its sender may send it is decided when it is
//! sent.
//!
//! Spec: MSC4140

use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use ruma::OwnedRoomId;
use tokio::sync::Notify;

use super::{Rooms, policy, send};
use crate::{
    error::{Error, Result},
    store::{
        Rows, Ticket, Write,
        schema::{
            UserNo,
            delayed::{
                DELAYED, DELAYED_AS, DELAYED_DUE, DELAYED_ENDED, DELAYED_OWNERS, DELAYED_TRANSACTIONS, DelayedRow, End,
                EndRow,
            },
            users::ACCOUNTS,
        },
    },
};

/// How many events of one user may wait at once.
pub const MOST_WAITING: usize = 100;
/// How many that have ended are remembered for one user.
const MOST_ENDED: usize = 100;
/// For how long those are remembered: a week, in milliseconds.
const REMEMBERED: u64 = 7 * 24 * 3600 * 1000;
/// How long the content of an event may be, in bytes: longer than any event.
const MOST_CONTENT: usize = 65_536;
/// How long types, state keys and transaction IDs may be, in bytes.
const MOST_NAME: usize = 255;

/// What is shared by all who decide about delayed events.
#[derive(Default)]
pub struct Delayed {
    /// Held while one is decided about; the lock of a room is taken after it.
    deciding: Mutex<()>,
    /// Told when there is a new time to wait for.
    pub news: Notify,
}

/// An event to be sent later.
#[derive(Debug, Clone)]
pub struct NewDelayed<'a> {
    /// Who sends it.
    pub by: send::Sender<'a>,
    /// Into which room.
    pub room: OwnedRoomId,
    /// Its type.
    pub kind: &'a str,
    /// Its state key, for a state event.
    pub state_key: Option<String>,
    /// Its content, as JSON.
    pub content: &'a str,
    /// How long to wait.
    pub delay: Duration,
    /// The transaction ID, where the endpoint has one.
    pub transaction: Option<&'a str>,
}

/// What to do with a delayed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send it now.
    Send,
    /// Never send it.
    Cancel,
    /// Wait for its whole time again.
    Restart,
}

impl Action {
    /// The action of this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "send" => Some(Self::Send),
            "cancel" => Some(Self::Cancel),
            "restart" => Some(Self::Restart),
            _ => None,
        }
    }
}

/// Keeps an event to be sent later; gives its ID. The delay was checked against the configuration.
///
/// Errors: 403 `M_FORBIDDEN` outside of the room, 413 `M_TOO_LARGE`, 400 `M_BAD_JSON`, 429 `M_LIMIT_EXCEEDED`.
pub fn schedule(rooms: &Rooms, new: &NewDelayed<'_>) -> Result<(String, Ticket)> {
    let room = rooms.joined(&new.room, new.by.user)?;
    if new.content.len() > MOST_CONTENT {
        return Err(Error::too_large(format!("the content of an event has at most {MOST_CONTENT} bytes")));
    }
    let names = [Some(new.kind), new.state_key.as_deref(), new.transaction];
    if names.into_iter().flatten().any(|name| name.len() > MOST_NAME) {
        let message = format!("types, state keys and transaction IDs have at most {MOST_NAME} bytes");
        return Err(Error::invalid_param(message));
    }
    send::content(&room, new.content)?;
    let user = new.by.number;
    let transaction =
        new.transaction.map(|id| (new.by.device.to_string(), format!("{id}\0{}\0{}", new.room, new.kind)));
    let _deciding = rooms.delayed.deciding.lock();
    let mut write = rooms.store.write();
    if let Some((device, transaction)) = &transaction
        && let Some(id) = write.get(DELAYED_TRANSACTIONS, &(user, device.clone(), transaction.clone()))?
    {
        // An empty `Write` is on the disk after the one that made it.
        return Ok((id, write.commit()?));
    }
    check_room_for_more(rooms, &write, user)?;
    let row = DelayedRow {
        user: new.by.user.to_owned(),
        room: new.room.clone(),
        kind: new.kind.to_owned(),
        state_key: new.state_key.clone(),
        content: new.content.to_owned(),
        delay: u64::try_from(new.delay.as_millis()).unwrap_or(u64::MAX),
        since: rooms.clock.now(),
        transaction: transaction.clone(),
        ended: None,
    };
    let id = rooms.remote.chance.secret();
    write.put(DELAYED_DUE, &(row.due(), user, id.clone()), &());
    write.put(DELAYED_OWNERS, &id, &user);
    write.put(DELAYED, &(user, id.clone()), &row);
    if let Some((device, transaction)) = transaction {
        write.put(DELAYED_TRANSACTIONS, &(user, device, transaction), &id);
    }
    Ok((id, write.commit()?))
}

/// Refuses more events of a user than may wait, and says when there will be room for another.
fn check_room_for_more(rooms: &Rooms, write: &Write, user: UserNo) -> Result<()> {
    let rows = write.scan(DELAYED, &user)?;
    let waiting = rows.iter().filter(|(_, row)| row.ended.is_none()).map(|(_, row)| row.due());
    let (count, next) = waiting.fold((0, u64::MAX), |(count, next), due| (count + 1, next.min(due)));
    match count < MOST_WAITING {
        true => Ok(()),
        false => Err(Error::limit_exceeded(Duration::from_millis(
            next.saturating_sub(rooms.clock.now()).clamp(1, 3_600_000),
        ))),
    }
}

/// A delayed event of a user, with its ID.
pub type Listed = (String, DelayedRow);

/// One delayed event, waiting or ended.
///
/// Errors: 404 `M_NOT_FOUND`, also for somebody else's.
pub fn find(rooms: &Rooms, user: UserNo, id: &str) -> Result<DelayedRow> {
    rooms.store.get(DELAYED, &(user, id.to_owned()))?.ok_or_else(unknown)
}

/// The delayed events of a user that wait, in the order in which they will be sent.
pub fn waiting(rooms: &Rooms, user: UserNo) -> Result<Vec<Listed>> {
    let mut all = Vec::new();
    for row in rooms.store.scan(DELAYED, &user) {
        let ((_, id), row) = row?;
        if row.ended.is_none() {
            all.push((id, row));
        }
    }
    all.sort_by_key(|(_, row)| row.due());
    Ok(all)
}

fn unknown() -> Error {
    Error::not_found("there is no such delayed event")
}

/// Does something with a delayed event. `by` is who asks; nobody in particular where knowing the ID, which
/// cannot be guessed, is enough.
///
/// Errors: 404 `M_NOT_FOUND`; 409 `M_UNKNOWN` when it has ended otherwise; whatever sending it answers, and
/// then it goes on waiting.
pub fn act(rooms: &Rooms, by: Option<UserNo>, id: &str, action: Action) -> Result<Option<Ticket>> {
    let _deciding = rooms.delayed.deciding.lock();
    let mut write = rooms.store.write();
    let owner = write.get(DELAYED_OWNERS, &id.to_owned())?.ok_or_else(unknown)?;
    if by.is_some_and(|by| by != owner) {
        return Err(unknown());
    }
    let place = (owner, id.to_owned());
    let mut row = write.get(DELAYED, &place)?.ok_or_else(unknown)?;
    match (&row.ended, action) {
        (None, Action::Send) => deliver(rooms, &place, row).map(Some),
        (None, Action::Cancel) => {
            end(rooms, &mut write, &place, row, End::Cancelled)?;
            write.commit().map(Some).map_err(Error::from)
        }
        (None, Action::Restart) => {
            write.delete(DELAYED_DUE, &(row.due(), owner, id.to_owned()));
            row.since = rooms.clock.now();
            write.put(DELAYED_DUE, &(row.due(), owner, id.to_owned()), &());
            write.put(DELAYED, &place, &row);
            write.commit().map(Some).map_err(Error::from)
        }
        (Some(EndRow { how: End::Sent(_), .. }), Action::Send)
        | (Some(EndRow { how: End::Cancelled | End::Failed(_), .. }), Action::Cancel) => {
            // Asked again, because the answer got lost. This comes after the end on the disk.
            write.commit().map(Some).map_err(Error::from)
        }
        (Some(EndRow { how: End::Sent(_), .. }), _) => Err(ended("it was already sent")),
        (Some(_), _) => Err(ended("it was already called off")),
    }
}

fn ended(why: &'static str) -> Error {
    Error::new(StatusCode::CONFLICT, "M_UNKNOWN", why)
}

/// Sends a waiting event now, and writes down that it was sent.
fn deliver(rooms: &Rooms, place: &(UserNo, String), row: DelayedRow) -> Result<Ticket> {
    check_sender(rooms, place.0)?;
    let what = send::Plain { kind: &row.kind, state_key: row.state_key.as_deref(), content: &row.content };
    let (_, ticket) = send::plain(rooms, &row.user, &row.room, &what, |write, number, event| {
        write.put(DELAYED_AS, &number, &place.1);
        end(rooms, write, place, row.clone(), End::Sent(event.to_owned()))
    })?;
    Ok(ticket)
}

/// Refuses accounts that may no longer speak.
fn check_sender(rooms: &Rooms, user: UserNo) -> Result<()> {
    match rooms.store.row(ACCOUNTS, &user)? {
        Some(row) if row.deactivated || row.locked || row.suspended => {
            Err(Error::forbidden("the account that left this event here may not send anything any more"))
        }
        _ => Ok(()),
    }
}

/// Writes down how a waiting event ended, and forgets the oldest of those that ended earlier.
fn end(rooms: &Rooms, write: &mut Write, place: &(UserNo, String), row: DelayedRow, how: End) -> Result<()> {
    let now = rooms.clock.now();
    write.delete(DELAYED_DUE, &(row.due(), place.0, place.1.clone()));
    write.put(DELAYED_ENDED, &(now, place.0, place.1.clone()), &());
    write.put(DELAYED, place, &DelayedRow { ended: Some(EndRow { at: now, how }), ..row });
    let mut ended: Vec<_> = write.scan(DELAYED, &place.0)?;
    ended.retain(|(_, row)| row.ended.is_some());
    ended.sort_by_key(|(_, row)| row.ended.as_ref().map(|end| end.at));
    let spare = ended.len().saturating_sub(MOST_ENDED);
    ended.into_iter().take(spare).for_each(|(place, row)| forget(write, &place, &row));
    Ok(())
}

/// Removes a delayed event that has ended.
fn forget(write: &mut Write, place: &(UserNo, String), row: &DelayedRow) {
    write.delete(DELAYED, place);
    write.delete(DELAYED_OWNERS, &place.1);
    if let Some(end) = &row.ended {
        write.delete(DELAYED_ENDED, &(end.at, place.0, place.1.clone()));
    }
    if let Some((device, transaction)) = &row.transaction {
        write.delete(DELAYED_TRANSACTIONS, &(place.0, device.clone(), transaction.clone()));
    }
}

/// Sends everything that is due, in the order of its time; what may not be sent ends with the error. Returns
/// when the next one is due, in milliseconds since the epoch.
pub async fn send_due(rooms: &Rooms) -> Result<Option<u64>> {
    let now = rooms.clock.now();
    let (mut tickets, failures) = decide_due(rooms, now)?;
    let mut failed = None;
    for (place, error) in failures {
        let sent = match policy::ask(rooms, error).await {
            Ok(()) => decide_one(rooms, place, now),
            Err(error) => give_up(rooms, &place, error),
        };
        match sent {
            Ok(ticket) => tickets.extend(ticket),
            Err(error) => failed = Some(error),
        }
    }
    tickets.extend(forget_old(rooms, now)?);
    for ticket in tickets {
        ticket.published().await?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let next = rooms.store.scan(DELAYED_DUE, &()).next().transpose()?;
    Ok(next.map(|((at, _, _), ())| at))
}

/// What could not be sent, and why.
type Failures = Vec<((UserNo, String), Error)>;

/// Sends all that is due, as far as it goes; with it comes what went wrong, or has to be asked of a policy server.
fn decide_due(rooms: &Rooms, now: u64) -> Result<(Vec<Ticket>, Failures)> {
    let (mut tickets, mut failed) = (Vec::new(), Vec::new());
    let due = rooms.store.write().range(DELAYED_DUE, &0u64, &now.saturating_add(1))?;
    for ((_, user, id), ()) in due {
        let place = (user, id);
        match decide_one(rooms, place.clone(), now) {
            Ok(ticket) => tickets.extend(ticket),
            Err(error) => failed.push((place, error)),
        }
    }
    Ok((tickets, failed))
}

/// Forgets what has ended long ago.
fn forget_old(rooms: &Rooms, now: u64) -> Result<Option<Ticket>> {
    let _deciding = rooms.delayed.deciding.lock();
    let mut write = rooms.store.write();
    let old = write.range(DELAYED_ENDED, &0u64, &now.saturating_sub(REMEMBERED))?;
    if old.is_empty() {
        return Ok(None);
    }
    for ((_, user, id), ()) in old {
        if let Some(row) = write.get(DELAYED, &(user, id.clone()))? {
            forget(&mut write, &(user, id), &row);
        }
    }
    write.commit().map(Some).map_err(Error::from)
}

/// Sends one event, if it still waits and is due.
fn decide_one(rooms: &Rooms, place: (UserNo, String), now: u64) -> Result<Option<Ticket>> {
    let _deciding = rooms.delayed.deciding.lock();
    let write = rooms.store.write();
    let row = write.get(DELAYED, &place)?.filter(|row| row.ended.is_none() && row.due() <= now);
    let Some(row) = row else { return Ok(None) };
    match deliver(rooms, &place, row.clone()) {
        Ok(ticket) => Ok(Some(ticket)),
        Err(error) if error.status.is_client_error() => fail(rooms, write, &place, row, &error).map(Some),
        // Something is wrong here and not with the event: it waits until it can be sent.
        Err(error) => Err(error),
    }
}

/// Writes down that an event cannot be sent, if that is the event's fault.
fn give_up(rooms: &Rooms, place: &(UserNo, String), error: Error) -> Result<Option<Ticket>> {
    if !error.status.is_client_error() {
        return Err(error);
    }
    let _deciding = rooms.delayed.deciding.lock();
    let write = rooms.store.write();
    match write.get(DELAYED, place)?.filter(|row| row.ended.is_none()) {
        Some(row) => fail(rooms, write, place, row, &error).map(Some),
        None => Ok(None),
    }
}

fn fail(rooms: &Rooms, mut write: Write, place: &(UserNo, String), row: DelayedRow, error: &Error) -> Result<Ticket> {
    tracing::debug!(?error, "a delayed event of {} could not be sent", row.user);
    end(rooms, &mut write, place, row, End::Failed(error.body().to_string()))?;
    write.commit().map_err(Error::from)
}
