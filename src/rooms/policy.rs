//! Asking a room's policy server before something is said in the room, and about what others have said.
//!
//! A room is locked while an event is made, and nobody may wait for another server meanwhile. So in a room with a
//! policy server [`Deciding::send`](super::append::Deciding::send) makes the event, keeps it aside and fails;
//! [`approved`] then asks the policy server, and tries again: this time the signed event is there, and is added as
//! it is. Whoever sends something does it inside [`approved`]. What others send is checked in [`super::intake`].
//!
//! Spec: server-server-api#asking-for-a-policy-server-signature-on-an-event

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use ruma::api::federation::policy::sign_event;

use super::{
    Rooms,
    append::{Deciding, NewEvent},
    cache::Known,
    state::State,
};
use crate::{
    error::{Error, Result},
    protocol::{
        canonical,
        event::Event,
        policy::{self, PolicyServer},
        version::Rules,
    },
    remote::{Patience, RemoteError},
    store::schema::{RoomNo, events::Standing, rooms::ROOM_SERVERS},
};

/// How patient we are with a policy server while somebody waits to say something. It is asked even if it did not
/// answer lately: without it nobody can say anything.
const OURS: Patience = Patience { timeout: Duration::from_secs(10), limit: 64 * 1024, insist: true };
/// The same for what others have said.
const OTHERS: Patience = Patience { insist: false, ..OURS };
/// How many events of others are asked about at the same time.
const AT_ONCE: usize = 8;
/// How often one wish is tried: it may be several events.
const TRIES: usize = 12;
/// How many signed events of a room are kept for those who are about to add them.
const MOST_KEPT: usize = 20;

/// An event that a policy server has to sign first: the cause of the error with which it was not added.
#[derive(Debug)]
struct Unsigned {
    room: RoomNo,
    event: Event,
    policy: PolicyServer,
}

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has to sign {} first", self.policy.via, self.event.event_id)
    }
}

impl std::error::Error for Unsigned {}

/// Does something in a room, and asks the room's policy server whenever that is what it takes. `attempt` is
/// called again after that, and should come to the same wish.
///
/// Errors: those of `attempt`; what the policy server says; 502 `M_UNKNOWN` if it cannot be asked.
pub async fn approved<T>(rooms: &Rooms, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..TRIES {
        match attempt() {
            Err(error) => ask(rooms, error).await?,
            done => return done,
        }
    }
    let message = "the room changes faster than its policy server can look at this; try again";
    Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message))
}

/// Whether an error only says that a policy server has to be asked first ([`ask`]).
pub fn is_unsigned(error: &Error) -> bool {
    error.cause.as_ref().is_some_and(|cause| cause.is::<Unsigned>())
}

/// If an error only says that a policy server has to be asked first, asks it. After that, what failed may be
/// tried again.
///
/// Errors: as [`approved`].
pub async fn ask(rooms: &Rooms, mut error: Error) -> Result<()> {
    let unsigned = match error.cause.take().map(|cause| cause.downcast::<Unsigned>()) {
        Some(Ok(unsigned)) => unsigned,
        Some(Err(cause)) => {
            error.cause = Some(cause);
            return Err(error);
        }
        None => return Err(error),
    };
    let Unsigned { room, event, policy } = *unsigned;
    let room = rooms.open(room)?.ok_or_else(|| Error::internal("a room is gone"))?;
    let signed =
        signed(rooms, &event, &policy, room.rules, OURS).await.map_err(|error| error.for_client(&policy.via))?;
    let mut kept = room.approved.lock();
    if kept.len() == MOST_KEPT {
        kept.remove(0);
    }
    kept.push(Arc::new(signed));
    Ok(())
}

/// Asks the room's policy server, if it has one, to sign an event of ours that is not added by
/// [`Deciding::send`](super::append::Deciding::send).
pub(super) async fn countersigned(
    rooms: &Rooms,
    event: Event,
    policy: Option<&PolicyServer>,
    rules: &Rules,
) -> Result<Event> {
    match policy.filter(|_| policy::concerns(&event.kind, event.state_key.as_deref())) {
        Some(policy) => signed(rooms, &event, policy, rules, OURS).await.map_err(|error| error.for_client(&policy.via)),
        None => Ok(event),
    }
}

/// Asks about events of others. Those that the policy server has signed come back with its signature.
pub(super) async fn signed_by(
    rooms: &Rooms,
    policy: &PolicyServer,
    events: Vec<Arc<Event>>,
    rules: &Rules,
) -> Vec<Event> {
    let asked = stream::iter(events).map(|event| async move {
        let signed = signed(rooms, &event, policy, rules, OTHERS).await;
        signed
            .inspect_err(|error| tracing::debug!(event = %event.event_id, %error, "no word of the policy server"))
            .ok()
    });
    asked.buffer_unordered(AT_ONCE).filter_map(|signed| async { signed }).collect().await
}

async fn signed(
    rooms: &Rooms,
    event: &Event,
    policy: &PolicyServer,
    rules: &Rules,
    patience: Patience,
) -> Result<Event, RemoteError> {
    let via = &policy.via;
    let request = sign_event::v1::Request::new(event.to_pdu());
    let answer = rooms.remote.ask_with(via, request, patience).await?;
    let signature = answer.ed25519_signature(via).unwrap_or_default().to_owned();
    let signed = policy::with_signature(event, policy, signature, rules);
    let signed = signed.map_err(|error| RemoteError::Nonsense(error.to_string()))?;
    match policy.approves(&signed, rules) {
        true => Ok(signed),
        false => Err(RemoteError::Nonsense("its signature is not of the key that the room names".to_owned())),
    }
}

impl Deciding<'_> {
    /// The room's policy server, if it uses one: it must have somebody in the room. This server is none, and whoever
    /// names it as one must not be able to lock its users in.
    pub(super) fn policy(&self) -> Result<Option<PolicyServer>> {
        self.in_use(self.state("m.room.policy", "")?)
    }

    /// The policy server that a state of the room names, if it still has somebody in the room.
    pub(super) fn policy_at(&self, state: &State) -> Result<Option<PolicyServer>> {
        self.in_use(self.entry(state.number, "m.room.policy", "")?)
    }

    fn in_use(&self, named_by: Option<Arc<Known>>) -> Result<Option<PolicyServer>> {
        let Some(policy) = named_by.and_then(|known| PolicyServer::named_in(&known.event)) else { return Ok(None) };
        let own = crate::remote::is_own(&self.rooms.config, &policy.via);
        let there = !own && self.write.get(ROOM_SERVERS, &(self.room.number, policy.via.to_string()))?.is_some();
        Ok(there.then_some(policy))
    }

    /// Adds an event in a room with a policy server: the one that it has signed, if somebody has asked it.
    pub(super) fn send_approved(&mut self, new: NewEvent, policy: PolicyServer) -> Result<Arc<Event>> {
        let Some(event) = self.take_approved(&new, &policy) else {
            let event = self.compose(new)?;
            self.authorize(&event)?;
            let message = format!("the policy server of this room, {}, has to be asked first", policy.via);
            let mut error = Error::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message);
            error.cause = Some(Box::new(Unsigned { room: self.room.number, event, policy }));
            return Err(error);
        };
        self.authorize(&event)?;
        let ends: BTreeSet<_> = self.head().extremities.iter().map(|(_, id)| id).collect();
        if event.prev_events.iter().collect::<BTreeSet<_>>() == ends {
            return self.add(Arc::unwrap_or_clone(event));
        }
        // Something else was said meanwhile: the event stands beside it.
        let mut states = Vec::new();
        for prev in &event.prev_events {
            let prev = self.by_id(prev)?.ok_or_else(|| Error::internal(format!("event {prev} is missing")))?;
            states.push(self.state_after(&prev)?);
        }
        let before = self.resolve(&states)?;
        self.accept(&event, &before, Standing::Accepted)?;
        Ok(event)
    }

    /// The signed event that is what somebody wants to send.
    fn take_approved(&self, new: &NewEvent, policy: &PolicyServer) -> Option<Arc<Event>> {
        let content = canonical::write_object(&new.content);
        let rules = self.room.rules;
        let mut kept = self.room.approved.lock();
        let at = kept.iter().position(|event| {
            event.kind == new.kind
                && event.state_key == new.state_key
                && event.sender == new.sender
                && (new.redacts.is_none() || event.redacts == new.redacts)
                && event.content() == content
                && policy.approves(event, rules)
                // One of its forerunners may have been given up.
                && event.prev_events.iter().all(|id| matches!(self.by_id(id), Ok(Some(_))))
        })?;
        Some(kept.remove(at))
    }
}
