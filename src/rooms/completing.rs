//! Fetches the members of rooms that were joined without them.
//!
//! What is to be fetched is a row, so a restart forgets nothing; events that have come stay, so nothing comes
//! twice. The server that let us in is asked first, then others that are in the room, and all of them again after
//! a pause that grows.
//!
//! Spec: server-server-api#get_matrixfederationv1stateroomid

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use ruma::{
    OwnedEventId, OwnedServerName, ServerName,
    api::federation::event::{get_room_state, get_room_state_ids},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Room, Rooms,
    admit::Checked,
    append::Deciding,
    arriving::{self, Batch},
    ephemeral, forks, intake, late, partial,
    state::State,
};
use crate::{
    error::{Error, Result},
    heavy,
    protocol::{event::Event, vetting::Vetting},
    remote::Patience,
    store::{
        Ticket,
        schema::{
            EventNo, RoomNo, StateKeyNo,
            events::Standing,
            numbers,
            rooms::{PARTIAL_EVENTS, PartialRow},
        },
    },
};

/// How many rooms are completed at the same time.
const AT_ONCE: usize = 2;
/// How many servers are asked before a pause.
const SERVERS: usize = 4;
/// The first pause after all of them were of no help, and the longest, in milliseconds.
const FIRST_PAUSE: u64 = 5_000;
const LONGEST_PAUSE: u64 = 3_600_000;
/// After so many failures it is enough if one server says that this one is not in the room, and none is of help.
const PATIENCE: u32 = 12;
/// How long to sleep at most; the clock may be turned.
const LONGEST_SLEEP: u64 = 30_000;
/// How patient the question for the IDs of a state is.
const ASK_IDS: Patience = Patience { timeout: Duration::from_secs(120), limit: 64 << 20, insist: true };
/// The same for the state itself.
const ASK_STATE: Patience = Patience { timeout: Duration::from_secs(1_800), limit: 4 << 30, insist: true };
/// Up to how many missing events are fetched one by one.
const FEW: usize = 20;
/// How many members take their place, or how many events are judged again, in one `Write`.
const CHUNK: usize = 500;

#[derive(Default)]
struct Tried {
    failures: u32,
    next: u64,
    at_work: bool,
    /// Who has said at last that this server is not in the room.
    forbidding: BTreeSet<OwnedServerName>,
}

/// Works until the task is dropped.
pub async fn run(rooms: Arc<Rooms>) -> Result<()> {
    if !rooms.config.federation.enabled {
        return Ok(());
    }
    let mut tried: HashMap<RoomNo, Tried> = HashMap::new();
    let mut working = JoinSet::new();
    loop {
        let rows = partial::all(&rooms.store)?;
        tried.retain(|room, tried| tried.at_work || rows.iter().any(|(row, _)| row == room));
        let now = rooms.clock.now();
        let mut wait = LONGEST_SLEEP;
        for (room, row) in rows {
            let tried = tried.entry(room).or_default();
            if tried.at_work || working.len() >= AT_ONCE {
                continue;
            }
            if tried.next > now {
                wait = wait.min(tried.next - now);
                continue;
            }
            let (rooms, mut mine) = (Arc::clone(&rooms), std::mem::take(tried));
            tried.at_work = true;
            working.spawn(async move {
                let done = complete(&rooms, room, row, &mut mine).await;
                (room, mine, done)
            });
        }
        let returned = rooms.remote.back_off.returned().notified();
        tokio::select! {
            Some(done) = working.join_next() => {
                let (room, mut theirs, done) = done.map_err(Error::internal)?;
                if let Err(error) = done {
                    let pause = (FIRST_PAUSE << theirs.failures.min(10)).min(LONGEST_PAUSE);
                    theirs.failures += 1;
                    theirs.next = rooms.clock.now() + pause;
                    tracing::info!("the members of a room do not arrive yet: {error}");
                }
                tried.insert(room, theirs);
            }
            () = rooms.partial.begun.notified() => {}
            () = returned => tried.values_mut().for_each(|tried| tried.next = 0),
            () = tokio::time::sleep(Duration::from_millis(wait.max(10))) => {}
        }
    }
}

/// Fetches what a room lacks and puts it in its place; once.
async fn complete(rooms: &Arc<Rooms>, number: RoomNo, row: PartialRow, tried: &mut Tried) -> Result<()> {
    let Some(room) = rooms.open(number)? else { return Ok(()) };
    if ephemeral::locals(rooms, number)?.is_empty() {
        return go_without(rooms, &room, &row, false).await;
    }
    let mut others = forks::servers(rooms, number)?;
    if !others.is_empty() {
        let turn = tried.failures as usize * (SERVERS - 1) % others.len();
        others.rotate_left(turn);
    }
    let servers = crate::remote::candidates(&rooms.config, std::iter::once(row.via.clone()).chain(others));
    let mut last = Error::not_found("there is no server to ask");
    for server in servers.iter().take(SERVERS) {
        match fetch(rooms, &room, &row, server).await {
            Ok(fetched) => return finish(rooms, &room, row, fetched).await,
            Err(error) => {
                tracing::debug!(room = %room.id, %server, "{server} does not give the members: {error}");
                match error.errcode == "M_FORBIDDEN" {
                    true => tried.forbidding.insert(server.clone()),
                    false => tried.forbidding.remove(server),
                };
                last = error;
            }
        }
    }
    let all = servers.iter().all(|server| tried.forbidding.contains(server));
    if !tried.forbidding.is_empty() && (all || tried.failures >= PATIENCE) {
        tracing::warn!(
            room = %room.id,
            "no server that is in {} gives this server the members: {last}. It was probably removed from the room. Its \
             users see the room as far as it is known, and can leave it",
            room.id
        );
        return go_without(rooms, &room, &row, true).await;
    }
    Err(last)
}

/// Nobody waits for the members any more: nobody of this server is inside, or nobody else gives them.
async fn go_without(rooms: &Arc<Rooms>, room: &Arc<Room>, row: &PartialRow, is_inside: bool) -> Result<()> {
    let ticket = {
        let mut deciding = rooms.decide(room);
        if deciding.partial()?.as_ref() != Some(row) || is_inside == deciding.head().locals.is_empty() {
            return Ok(());
        }
        deciding.end_partial(is_inside)?;
        room.set_partial(false);
        deciding.commit()?
    };
    ticket.published().await?;
    rooms.partial.tell_over();
    Ok(())
}

type Entry = (StateKeyNo, EventNo);

/// The whole state before the join, whose events are kept here by then.
struct Fetched {
    state: Vec<Entry>,
    /// What belongs to it and cannot be had, or not be believed.
    missing: Vec<OwnedEventId>,
}

async fn fetch(rooms: &Arc<Rooms>, room: &Arc<Room>, row: &PartialRow, server: &ServerName) -> Result<Fetched> {
    let join = rooms.known(row.join)?.event.event_id.clone();
    let request = get_room_state_ids::v1::Request::new(join.clone(), room.id.clone());
    let answer = rooms.remote.ask_with(server, request, ASK_IDS).await.map_err(|error| error.for_client(server))?;
    // What an event rests on may be missing too: without it the event is not believed.
    let all = || answer.pdu_ids.iter().chain(&answer.auth_chain_ids);
    let mut missing_now = missing(rooms, room, all())?;
    if (1..=FEW).contains(&missing_now.len()) {
        let servers: [OwnedServerName; 1] = [server.to_owned()];
        let (to, from) = mpsc::channel(1);
        let events = intake::events(rooms, room, &servers, missing_now).await;
        // It has space for one, and somebody who takes it.
        to.send(("pdus".into(), Checked { events, keyless: Vec::new() })).await.map_err(Error::internal)?;
        drop(to);
        keep(Arc::clone(rooms), Arc::clone(room), from).await?;
        missing_now = missing(rooms, room, all())?;
    }
    let mut come = Come::new();
    // What did not come one by one may have been lost on the way. Only of a whole answer it is certain that what
    // is not in it, or not good, cannot be had.
    if !missing_now.is_empty() {
        let request = get_room_state::v1::Request::new(join, room.id.clone());
        let body = rooms.remote.stream(server, request, ASK_STATE).await.map_err(|error| error.for_client(server))?;
        let (to, from) = mpsc::channel(2);
        let keep = tokio::spawn(keep(Arc::clone(rooms), Arc::clone(room), from));
        let read = arriving::read(rooms, room.rules, body, &["pdus", "auth_chain"], to).await;
        come = keep.await.map_err(Error::internal)??;
        read.map_err(|error| error.for_client(server))?;
    }
    let ids = answer.pdu_ids;
    let (rooms, room) = (Arc::clone(rooms), Arc::clone(room));
    heavy::run(move || entries(&rooms, &room, &ids, &come)).await?
}

/// The state events that have just come, so that they need not be read again.
type Come = HashMap<OwnedEventId, Entry>;

fn missing<'a>(rooms: &Rooms, room: &Room, ids: impl Iterator<Item = &'a OwnedEventId>) -> Result<Vec<OwnedEventId>> {
    let mut missing = Vec::new();
    for id in ids {
        if rooms.by_id(id)?.is_none_or(|known| known.room != room.number) {
            missing.push(id.clone());
        }
    }
    Ok(missing)
}

/// Keeps events as they come, beside the room, once each is found good.
async fn keep(rooms: Arc<Rooms>, room: Arc<Room>, mut from: mpsc::Receiver<Batch>) -> Result<Come> {
    let mut vetting = Vetting::new(room.rules, &room.id);
    let mut come = Come::new();
    let mut last: Option<Ticket> = None;
    while let Some((_, checked)) = from.recv().await {
        let (held, of) = (Arc::clone(&rooms), Arc::clone(&room));
        let work = move || {
            let ticket = keep_some(&held, &of, &mut vetting, checked.events, &mut come)?;
            Ok::<_, Error>((vetting, come, ticket))
        };
        let ticket;
        (vetting, come, ticket) = heavy::run(work).await??;
        last = Some(ticket);
    }
    if vetting.left_over() > 0 {
        tracing::info!(room = %room.id, "{} events of the room's state cannot be believed", vetting.left_over());
    }
    if let Some(ticket) = last {
        ticket.published().await?;
    }
    Ok(come)
}

fn keep_some(rooms: &Rooms, room: &Room, vetting: &mut Vetting, events: Vec<Event>, come: &mut Come) -> Result<Ticket> {
    let mut deciding = rooms.decide(room);
    let good = vetting.offer(events, |id| deciding.believed(id));
    for event in &good {
        let Some(known) = deciding.keep_if_first(event, Standing::Outlier)? else { continue };
        if let Some((kind, state_key)) = event.key().filter(|_| known.standing != Standing::Rejected) {
            let key = numbers::state_key(&mut deciding.write, kind, state_key)?;
            come.insert(event.event_id.clone(), (key, known.number));
        }
    }
    vetting.forget_members();
    deciding.stage()
}

/// A state by numbers, out of those of its events that are here.
fn entries(rooms: &Rooms, room: &Room, ids: &[OwnedEventId], come: &Come) -> Result<Fetched> {
    let mut entries = Vec::with_capacity(ids.len());
    let mut missing = Vec::new();
    let mut write = rooms.store.write();
    for id in ids {
        if let Some(entry) = come.get(id) {
            entries.push(*entry);
            continue;
        }
        let Some(known) = rooms.by_id(id)? else {
            missing.push(id.clone());
            continue;
        };
        if known.room != room.number || known.standing == Standing::Rejected {
            continue;
        }
        if let Some((kind, state_key)) = known.event.key() {
            let key = match rooms.state_key(kind, state_key)? {
                Some(key) => key,
                None => numbers::state_key(&mut write, kind, state_key)?,
            };
            entries.push((key, known.number));
        }
    }
    drop(write.commit()?);
    Ok(Fetched { state: entries, missing })
}

/// Puts the members in their places: the events since the join get the states that were really before them, then
/// the current state grows, and in the end the room is like any other. No event from elsewhere comes in meanwhile.
async fn finish(rooms: &Arc<Rooms>, room: &Arc<Room>, row: PartialRow, fetched: Fetched) -> Result<()> {
    let _alone = room.intake.lock().await;
    let (held, of) = (Arc::clone(rooms), Arc::clone(room));
    let work = move || -> Result<Option<Ticket>> {
        let still = |deciding: &Deciding<'_>| Ok::<_, Error>(deciding.partial()?.as_ref() == Some(&row));
        let whole = {
            let mut deciding = held.decide(&of);
            if !still(&deciding)? {
                return Ok(None);
            }
            let whole = save(&mut deciding, &row, fetched.state)?;
            drop(deciding.stage()?);
            held.cache.keep_state(&whole, whole.len());
            whole
        };
        let mut judged = BTreeSet::new();
        loop {
            let mut deciding = held.decide(&of);
            if !still(&deciding)? {
                return Ok(None);
            }
            if judge(&mut deciding, &row, &whole, &mut judged, CHUNK)? == 0 {
                break;
            }
            drop(deciding.commit()?);
        }
        let members: Vec<Entry> = whole.iter().filter(|(key, _)| key.is_member()).collect();
        for some in members.chunks(CHUNK) {
            let mut deciding = held.decide(&of);
            if !still(&deciding)? {
                return Ok(None);
            }
            deciding.arrive(some)?;
            drop(deciding.commit()?);
        }
        let mut deciding = held.decide(&of);
        if !still(&deciding)? {
            return Ok(None);
        }
        judge(&mut deciding, &row, &whole, &mut judged, usize::MAX)?;
        deciding.settle()?;
        late::want(&mut deciding, &fetched.missing)?;
        deciding.end_partial(true)?;
        of.set_partial(false);
        Ok(Some(deciding.commit()?))
    };
    let done = heavy::run(work).await??;
    if let Some(ticket) = done {
        ticket.published().await?;
        tracing::info!("the members of {} are here", room.id);
    }
    rooms.partial.tell_over();
    Ok(())
}

/// The whole state before the join.
fn save(deciding: &mut Deciding<'_>, row: &PartialRow, state: Vec<Entry>) -> Result<State> {
    let before = deciding.known(row.join)?.before.unwrap_or_default();
    let before = deciding.rooms.state_in(&deciding.write, before)?;
    let changes: Vec<_> = state.into_iter().map(|(key, event)| (key, Some(event))).collect();
    before.derive(&mut deciding.write, &changes)
}

/// Judges some of the events since the join again; how many.
fn judge(
    deciding: &mut Deciding<'_>,
    row: &PartialRow,
    whole: &State,
    judged: &mut BTreeSet<u64>,
    most: usize,
) -> Result<usize> {
    let rows = deciding.write.scan(PARTIAL_EVENTS, &(deciding.room.number,))?;
    let mut count = 0;
    for ((_, at), number) in rows {
        if count < most && judged.insert(at) {
            deciding.judge_again(number, row, whole)?;
            count += 1;
        }
    }
    Ok(count)
}
