//! Events of a room's state that could not be believed when this server came in, because nobody had the keys of their
//! servers: they are asked for again, and take their place when those servers are back.
//!
//! What is wanted is a row with a time until which it is worth while, so a restart forgets nothing. Whoever comes
//! late changes only what builds on the room from then on.
//!
//! Spec: server-server-api#joining-rooms, #retrieving-server-keys

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use ruma::{OwnedEventId, OwnedServerName};

use super::{Room, Rooms, append::Deciding, cache::Known, ephemeral, forks, intake};
use crate::{
    error::Result,
    heavy,
    protocol::{event::Event, vetting::Vetting},
    store::{
        Ticket,
        schema::{
            EventNo, RoomNo, StateKeyNo,
            events::Standing,
            numbers,
            rooms::{LATE_EVENTS, with_rows},
        },
    },
};

/// For how long events are asked for again, in milliseconds.
const LASTS: u64 = 30 * 24 * 3_600_000;
/// How many events of a room are asked for again.
const MOST: usize = 2_000;
/// How many of them are fetched together.
const AT_ONCE: usize = 100;
/// How often what they rest on is asked for as well.
const ROUNDS: usize = 4;
/// How many servers are asked for each of them.
const SERVERS: usize = 3;
/// The first pause before they are asked for again, and the longest, in milliseconds.
const FIRST_PAUSE: u64 = 60_000;
const LONGEST_PAUSE: u64 = 6 * 3_600_000;
/// How long to sleep at most; the clock may be turned.
const LONGEST_SLEEP: u64 = 30_000;
/// What decides who may do what in a room does not change in hindsight.
const NEVER_LATE: [&str; 3] = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];

struct Tried {
    times: u32,
    last: u64,
    next: u64,
}

/// From now on these events of a room are asked for again, and no others.
pub(super) fn want(deciding: &mut Deciding<'_>, events: &[OwnedEventId]) -> Result<()> {
    let (room, until) = (deciding.room.number, deciding.rooms.clock.now() + LASTS);
    for (key, _) in deciding.write.scan(LATE_EVENTS, &(room,))? {
        deciding.write.delete(LATE_EVENTS, &key);
    }
    for id in events.iter().take(MOST) {
        deciding.write.put(LATE_EVENTS, &(room, id.as_str().to_owned()), &until);
    }
    if !events.is_empty() {
        let count = events.len();
        tracing::info!(room = %deciding.room.id, "{count} events of the room's state are asked for again later");
    }
    Ok(())
}

/// Works until the task is dropped.
pub async fn run(rooms: Arc<Rooms>) -> Result<()> {
    if !rooms.config.federation.enabled {
        return Ok(());
    }
    let mut tried: HashMap<RoomNo, Tried> = HashMap::new();
    loop {
        let wanting = with_rows(&rooms.store, LATE_EVENTS).collect::<Result<BTreeSet<_>, _>>()?;
        tried.retain(|room, _| wanting.contains(room));
        let mut wait = LONGEST_SLEEP;
        for number in wanting {
            let now = rooms.clock.now();
            let tried = tried.entry(number).or_insert(Tried { times: 0, last: now, next: now + FIRST_PAUSE });
            if tried.next > now {
                wait = wait.min(tried.next - now);
                continue;
            }
            tried.times += 1;
            tried.last = now;
            tried.next = now + (FIRST_PAUSE << tried.times.min(16)).min(LONGEST_PAUSE);
            if let Err(error) = ask_again(&rooms, number, tried.times as usize).await {
                tracing::info!("events that are missing in a room do not come yet: {error}");
            }
        }
        let returned = rooms.remote.back_off.returned().notified();
        tokio::select! {
            () = returned => tried.values_mut().for_each(|tried| tried.next = tried.next.min(tried.last + FIRST_PAUSE)),
            () = tokio::time::sleep(Duration::from_millis(wait.max(10))) => {}
        }
    }
}

/// Asks for what is missing in a room; each `turn` asks other servers. What comes and is good takes its place.
pub async fn ask_again(rooms: &Arc<Rooms>, number: RoomNo, turn: usize) -> Result<()> {
    let now = rooms.clock.now();
    let rows: Vec<_> = rooms.store.scan(LATE_EVENTS, &(number,)).collect::<Result<_, _>>()?;
    let is_inside = !ephemeral::locals(rooms, number)?.is_empty();
    let Some(room) = rooms.open(number)?.filter(|room| is_inside && !room.is_partial()) else {
        return give_up(rooms, rows.into_iter().map(|(key, _)| key)).await;
    };
    let (wanted, over): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, until)| *until > now);
    if !over.is_empty() {
        tracing::info!(room = %room.id, "{} events of the room's state never came", over.len());
        give_up(rooms, over.into_iter().map(|(key, _)| key)).await?;
    }
    let mut servers = crate::remote::candidates(&rooms.config, forks::servers(rooms, number)?);
    if !servers.is_empty() {
        let by = turn * SERVERS % servers.len();
        servers.rotate_left(by);
        servers.truncate(SERVERS);
    }
    let ids: Vec<_> = wanted.into_iter().filter_map(|((_, id), _)| OwnedEventId::try_from(id).ok()).collect();
    for some in ids.chunks(AT_ONCE) {
        fetch(rooms, &room, &servers, some.to_vec()).await?;
        if let Some(ticket) = seat(rooms, &room, some.to_vec()).await? {
            ticket.published().await?;
        }
    }
    Ok(())
}

async fn give_up(rooms: &Rooms, keys: impl Iterator<Item = (RoomNo, String)>) -> Result<()> {
    let ticket = {
        let mut write = rooms.store.write();
        keys.for_each(|key| write.delete(LATE_EVENTS, &key));
        write.commit()?
    };
    ticket.published().await?;
    Ok(())
}

/// Keeps those of the events beside the room that can be had and are good, with what they rest on.
async fn fetch(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    servers: &[OwnedServerName],
    mut ids: Vec<OwnedEventId>,
) -> Result<()> {
    let mut vetting = Vetting::new(room.rules, &room.id);
    let mut asked = HashSet::new();
    for _ in 0..ROUNDS {
        ids.retain(|id| asked.insert(id.clone()));
        if ids.is_empty() {
            break;
        }
        let events = intake::events(rooms, room, servers, std::mem::take(&mut ids)).await;
        let (held, of) = (Arc::clone(rooms), Arc::clone(room));
        let keep = move || keep(&held, &of, &mut vetting, events).map(|ticket| (vetting, ticket));
        let (offered, ticket) = heavy::run(keep).await??;
        ticket.published().await?;
        (vetting, ids) = (offered, Vec::new());
        ids.extend(vetting.wanted().take(MOST).cloned());
    }
    Ok(())
}

fn keep(rooms: &Rooms, room: &Room, vetting: &mut Vetting, events: Vec<Event>) -> Result<Ticket> {
    let mut deciding = rooms.decide(room);
    let good = vetting.offer(events, |id| deciding.believed(id));
    for event in &good {
        deciding.keep_if_first(event, Standing::Outlier)?;
    }
    deciding.stage()
}

/// What has come takes its place in the room.
async fn seat(rooms: &Arc<Rooms>, room: &Arc<Room>, ids: Vec<OwnedEventId>) -> Result<Option<Ticket>> {
    let _alone = room.intake.lock().await;
    let (rooms, room) = (Arc::clone(rooms), Arc::clone(room));
    let work = move || {
        let mut deciding = rooms.decide(&room);
        let mut come = Vec::new();
        for id in ids {
            let Some(known) = deciding.by_id(&id)?.filter(|known| known.room == room.number) else { continue };
            deciding.write.delete(LATE_EVENTS, &(room.number, id.as_str().to_owned()));
            if let Some((kind, state_key)) = known.event.key()
                && known.standing != Standing::Rejected
                && !NEVER_LATE.contains(&kind)
            {
                come.push((numbers::state_key(&mut deciding.write, kind, state_key)?, known.number));
            }
        }
        if come.is_empty() {
            return Ok(None);
        }
        deciding.arrive_late(&come)?;
        tracing::info!(room = %room.id, "{} missing events of the room's state have come", come.len());
        deciding.commit().map(Some)
    };
    heavy::run(work).await?
}

impl Deciding<'_> {
    /// Events take their place in the state after each end of the room where nothing stands yet, and so in the
    /// current state.
    fn arrive_late(&mut self, events: &[(StateKeyNo, EventNo)]) -> Result<()> {
        for (number, _) in self.head().extremities.clone() {
            let known = self.known(number)?;
            let Some(before) = known.before else { continue };
            let before = self.rooms.state_in(&self.write, before)?;
            let missing = events.iter().filter(|(key, _)| before.get(*key).is_none());
            let missing: Vec<_> = missing.map(|(key, event)| (*key, Some(*event))).collect();
            let before = before.derive(&mut self.write, &missing)?;
            self.replace(Known { before: Some(before.number), ..(*known).clone() });
        }
        self.settle()
    }
}
