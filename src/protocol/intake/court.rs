//! Judging the events of one intake, one after the other.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::{Before, Intake, Pause, StateId, Unjudged, Verdict, View, create_id};
use crate::protocol::{
    auth::{self, Refusal},
    event::Event,
    graph,
    policy::PolicyServer,
    resolve::{self, Lookup, ResolveError, StateMap},
};

/// The room's current state, as it moves with the events that are accepted.
pub(super) enum Current {
    Of(StateId),
    After(OwnedEventId),
    State(Arc<StateMap>),
    /// To be resolved out of the states after all ends, once somebody asks.
    OfEnds,
}

/// Where the events of one intake are judged, one after the other.
pub(super) struct Court<'a, V> {
    pub intake: &'a Intake,
    pub view: &'a V,
    pub pending: HashMap<OwnedEventId, Arc<Event>>,
    pub judged: HashMap<OwnedEventId, (Verdict, Before)>,
    pub ends: BTreeSet<OwnedEventId>,
    pub current: Current,
    pub policy: Option<PolicyServer>,
    /// Events of which the policy server has to be asked.
    pub unapproved: Vec<Arc<Event>>,
    /// Events before which a state was given that nobody has in full.
    pub lacking: Vec<OwnedEventId>,
}

impl<V: View> Court<'_, V> {
    /// An event that the server has, or that was judged here: what was not judged is not believed.
    fn find(&self, id: &EventId) -> Option<Arc<Event>> {
        let here = self.pending.get(id).filter(|_| self.judged.contains_key(id)).cloned();
        here.or_else(|| self.view.event(id).map(|known| known.event))
    }

    fn is_rejected(&self, id: &EventId) -> bool {
        match self.judged.get(id) {
            Some((verdict, _)) => matches!(verdict, Verdict::Rejected(_)),
            None => self.view.event(id).is_some_and(|known| known.rejected),
        }
    }

    pub fn judge_outlier(&self, event: &Event) -> Result<Verdict, Pause> {
        Ok(match self.by_auth_events(event)? {
            Ok(()) => Verdict::Outlier,
            Err(refusal) => Verdict::Rejected(refusal),
        })
    }

    pub fn judge(&mut self, event: &Arc<Event>) -> Result<(Verdict, Before), Pause> {
        let before = self.before(event)?;
        if let Err(refusal) = self.by_auth_events(event)? {
            return Ok((Verdict::Rejected(refusal), before));
        }
        if self.lacks_of_state(event) {
            self.lacking.push(event.event_id.clone());
        }
        let allowed = auth::check(self.intake.rules, event, |kind, key| {
            self.entry(&before, kind, key).or_else(|| self.claimed(event, kind, key))
        });
        let known_rejected = self.view.event(&event.event_id).is_some_and(|known| known.rejected);
        if let Err(refusal) = allowed {
            // A state of which nobody has everything may lack just what would allow the event.
            return match self.lacking.first() {
                Some(of) => Err(Pause::Fail(Unjudged::IncompleteState(of.clone()))),
                None => Ok((Verdict::Rejected(refusal), before)),
            };
        }
        if known_rejected {
            // As an outlier it was rejected by its auth events, and they do not change.
            return Ok((Verdict::Rejected(Refusal::RejectedBefore), before));
        }
        let is_at_the_end = self.is_at_the_end(event);
        let is_given = self.intake.states.contains_key(&event.event_id);
        // Nothing is current before the room has begun.
        if (!is_at_the_end || is_given) && !self.ends.is_empty() {
            self.settle()?;
            let merged = if is_given { Some(self.with_current(&before)?) } else { None };
            let current = |kind: &str, key: &str| match merged.as_ref().unwrap_or(&self.current) {
                Current::Of(state) => self.find(&self.view.entry(*state, kind, key)?),
                Current::After(id) => self.entry(&Before::After(id.clone()), kind, key),
                Current::State(state) => self.find(state.get(&(kind.to_owned(), key.to_owned()))?),
                Current::OfEnds => None,
            };
            if let Err(refusal) = auth::check(self.intake.rules, event, |kind, key| {
                current(kind, key).or_else(|| self.claimed(event, kind, key))
            }) {
                return Ok((Verdict::SoftFailed(refusal), before));
            }
        }
        if let Some(refusal) = self.police(event) {
            return Ok((Verdict::SoftFailed(refusal), before));
        }
        self.move_on(event, &before);
        Ok((Verdict::Accepted, before))
    }

    /// Step 7 of the checks. An event that the policy server has not been asked about is noted.
    fn police(&mut self, event: &Arc<Event>) -> Option<Refusal> {
        let policy = self.policy.as_ref()?;
        if policy.recommends(event, self.intake.rules) {
            return None;
        }
        if self.intake.policed.contains(&event.event_id) {
            return Some(Refusal::NotApproved { policy_server: policy.via.clone() });
        }
        self.unapproved.push(Arc::clone(event));
        None
    }

    /// What is current where something is missing between ours and an event: this server may have been away for
    /// long, so that its own current state knows nothing of those who have come since. A gap is easily made up,
    /// though, so that the given state alone does not count either.
    fn with_current(&self, before: &Before) -> Result<Current, Pause> {
        let current = match &self.current {
            Current::Of(state) => Some(self.view.entries(*state)),
            Current::After(id) => self.map_after(id),
            Current::State(state) => Some((**state).clone()),
            Current::OfEnds => None,
        };
        let before = match before {
            Before::Nothing | Before::Unknown => None,
            Before::Known(state) => Some(self.view.entries(*state)),
            Before::After(id) => self.map_after(id),
            Before::State(state) => Some((**state).clone()),
        };
        let states = current.into_iter().chain(before).collect();
        self.resolve(states).map(|state| Current::State(Arc::new(state)))
    }

    /// A member that the server's states may lack, as the event names it.
    fn claimed(&self, event: &Event, kind: &str, key: &str) -> Option<Arc<Event>> {
        if kind != "m.room.member" || !self.view.lacks_members() {
            return None;
        }
        event
            .auth_events
            .iter()
            .filter(|id| !self.is_rejected(id))
            .filter_map(|id| self.find(id))
            .find(|auth| auth.is(kind, key))
    }

    /// Makes the accepted event an end of the room, and the current state what follows from it.
    fn move_on(&mut self, event: &Event, before: &Before) {
        let id = &event.event_id;
        self.judged.insert(id.clone(), (Verdict::Accepted, before.clone()));
        let mut ends = std::mem::take(&mut self.ends);
        // The state after such an event is that after the end whose place it takes. Any other brings in the state of
        // its branch, even if it is no state event itself.
        let changes_nothing = !event.is_state() && matches!(&event.prev_events[..], [prev] if ends.contains(prev));
        graph::advance(&mut ends, event, |id| self.hidden(id));
        self.ends = ends;
        if self.ends.len() == 1 {
            self.current = Current::After(id.clone());
        } else if !changes_nothing {
            self.current = Current::OfEnds;
        }
    }

    /// Resolves the current state, if it is not known.
    fn settle(&mut self) -> Result<(), Pause> {
        if matches!(self.current, Current::OfEnds) {
            let states = self.ends.iter().filter_map(|id| self.map_after(id)).collect();
            self.current = Current::State(Arc::new(self.resolve(states)?));
        }
        Ok(())
    }

    /// Whether an event comes right after all ends of the room.
    fn is_at_the_end(&self, event: &Event) -> bool {
        self.ends.iter().eq(event.prev_events.iter().collect::<BTreeSet<_>>())
    }

    /// An event that is in the graph and cannot be an end of the room.
    fn hidden(&self, id: &EventId) -> Option<Arc<Event>> {
        let hidden = match self.judged.get(id) {
            Some((verdict, _)) => matches!(verdict, Verdict::Rejected(_) | Verdict::SoftFailed(_)),
            None => self.view.event(id).is_some_and(|known| known.rejected || known.soft_failed),
        };
        if hidden { self.find(id) } else { None }
    }

    /// Steps 4 of the checks: are the auth events well chosen, and do they allow the event?
    fn by_auth_events(&self, event: &Event) -> Result<Result<(), Refusal>, Pause> {
        let rules = self.intake.rules;
        let mut auth_events = Vec::with_capacity(event.auth_events.len() + 1);
        for id in &event.auth_events {
            let auth = self.find(id).ok_or_else(|| Pause::Fail(Unjudged::Missing(id.clone())))?;
            auth_events.push((auth, self.is_rejected(id)));
        }
        if let Err(refusal) = auth::check_auth_events(rules, event, auth_events.iter().map(|(event, r)| (&**event, *r)))
        {
            return Ok(Err(refusal));
        }
        if let Some(id) = create_id(rules, event) {
            let create = self.find(&id).ok_or(Pause::Fail(Unjudged::Missing(id.clone())))?;
            if self.is_rejected(&id) || create.kind != "m.room.create" {
                return Ok(Err(Refusal::NoCreate));
            }
            auth_events.push((create, false));
        }
        let find = |kind: &str, key: &str| {
            auth_events.iter().find(|(event, _)| event.is(kind, key)).map(|(event, _)| event.clone())
        };
        Ok(auth::check(rules, event, find))
    }

    /// The state before an event: that after its previous events, and the given one if not all are known.
    fn before(&self, event: &Event) -> Result<Before, Pause> {
        let given = self.intake.states.get(&event.event_id).and_then(Option::as_ref);
        let mut known: Vec<(Base, &OwnedEventId)> = Vec::new();
        for prev in &event.prev_events {
            if let Some(base) = self.base(prev)
                && !known.iter().any(|(other, _)| *other == base)
            {
                known.push((base, prev));
            }
        }
        // What comes after all ends comes after the current state, which is resolved already.
        if let (None, Current::Of(state)) = (given, &self.current)
            && known.len() > 1
            && self.is_at_the_end(event)
        {
            return Ok(Before::Known(*state));
        }
        if given.is_none()
            && known.len() > 1
            && known.iter().all(|(_, prev)| !self.judged.contains_key(*prev))
            && let Some(state) = self.view.state_after_all(&known.iter().map(|(_, prev)| &***prev).collect::<Vec<_>>())
        {
            return Ok(Before::Known(state));
        }
        let given = given.map(|ids| self.given_state(ids));
        match (&known[..], given) {
            ([], None) => Ok(Before::Nothing),
            ([], Some(given)) => Ok(Before::State(Arc::new(given))),
            ([(_, prev)], None) => Ok(Before::After((*prev).clone())),
            (_, given) => {
                let states = known.iter().filter_map(|(_, prev)| self.map_after(prev)).chain(given).collect();
                self.resolve(states).map(|state| Before::State(Arc::new(state)))
            }
        }
    }

    /// Whether a state was given before an event of which something is not to be had.
    fn lacks_of_state(&self, event: &Event) -> bool {
        let given = self.intake.states.get(&event.event_id).and_then(Option::as_ref);
        given.into_iter().flatten().any(|id| self.find(id).is_none())
    }

    /// The state that another server gave, as far as its events are there and not rejected.
    fn given_state(&self, ids: &[OwnedEventId]) -> StateMap {
        let mut state = StateMap::new();
        for event in ids.iter().filter(|id| !self.is_rejected(id)).filter_map(|id| self.find(id)) {
            if let Some((kind, key)) = event.key() {
                state.entry((kind.to_owned(), key.to_owned())).or_insert_with(|| event.event_id.clone());
            }
        }
        state
    }

    fn resolve(&self, states: Vec<StateMap>) -> Result<StateMap, Pause> {
        let lookup = Lookup { event: &|id| self.find(id), rejected: &|id| self.is_rejected(id) };
        let states: Vec<&StateMap> = states.iter().collect();
        resolve::resolve(self.intake.rules, &states, &lookup).map_err(|error| match error {
            ResolveError::Missing(id) if !self.intake.asked.contains(&id) => Pause::Need(BTreeSet::from([id])),
            ResolveError::Missing(id) => Pause::Fail(Unjudged::Missing(id)),
            ResolveError::TooLarge => Pause::Fail(Unjudged::TooMuch),
        })
    }

    /// Where the state after an event comes from; equal bases are equal states.
    fn base(&self, id: &EventId) -> Option<Base> {
        let mut id = id.to_owned();
        loop {
            if self.changes_state(&id) {
                return self.is_placed(&id).then_some(Base::Changed(id));
            }
            match self.judged.get(&id) {
                Some((_, Before::After(prev))) => id = prev.clone(),
                Some((_, Before::Known(state))) => return Some(Base::Known(*state)),
                Some((_, Before::Nothing | Before::State(_))) => return Some(Base::Changed(id)),
                Some((_, Before::Unknown)) => return None,
                None => return self.view.state_before(&id).map(Base::Known),
            }
        }
    }

    fn is_placed(&self, id: &EventId) -> bool {
        match self.judged.get(id) {
            Some((_, before)) => *before != Before::Unknown,
            None => self.view.state_before(id).is_some(),
        }
    }

    fn changes_state(&self, id: &EventId) -> bool {
        !self.is_rejected(id) && self.find(id).is_some_and(|event| event.is_state())
    }

    /// One entry of the state before an event.
    fn entry(&self, before: &Before, kind: &str, key: &str) -> Option<Arc<Event>> {
        let mut before = before;
        loop {
            let prev = match before {
                Before::Nothing | Before::Unknown => return None,
                Before::State(state) => return self.find(state.get(&(kind.to_owned(), key.to_owned()))?),
                Before::Known(state) => return self.find(&self.view.entry(*state, kind, key)?),
                Before::After(prev) => prev,
            };
            if !self.is_rejected(prev)
                && let Some(event) = self.find(prev)
                && event.is(kind, key)
            {
                return Some(event);
            }
            match self.judged.get(prev) {
                Some((_, earlier)) => before = earlier,
                None => return self.find(&self.view.entry(self.view.state_before(prev)?, kind, key)?),
            }
        }
    }

    /// The whole state after an event.
    fn map_after(&self, id: &EventId) -> Option<StateMap> {
        let mut changes = Vec::new();
        let mut id = id.to_owned();
        let mut state = loop {
            if self.changes_state(&id) {
                changes.extend(self.find(&id));
            }
            match self.judged.get(&id) {
                Some((_, Before::After(prev))) => id = prev.clone(),
                Some((_, Before::Nothing)) => break StateMap::new(),
                Some((_, Before::Known(state))) => break self.view.entries(*state),
                Some((_, Before::State(state))) => break (**state).clone(),
                Some((_, Before::Unknown)) => return None,
                None => break self.view.entries(self.view.state_before(&id)?),
            }
        };
        for event in changes.into_iter().rev() {
            if let Some((kind, key)) = event.key() {
                state.insert((kind.to_owned(), key.to_owned()), event.event_id.clone());
            }
        }
        Some(state)
    }
}

#[derive(PartialEq, Eq)]
enum Base {
    /// A state that the server has.
    Known(StateId),
    /// The state after this event.
    Changed(OwnedEventId),
}
