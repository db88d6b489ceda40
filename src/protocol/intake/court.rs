//! Judging one event whose previous events all have their place, or before which a state was given.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::{Before, Intake, Pause, StateId, Unjudged, Verdict, View, create_id};
use crate::protocol::{
    auth::{self, Refusal},
    event::Event,
    resolve::{self, Lookup, ResolveError, StateMap},
};

/// Where an event is judged.
pub(super) struct Court<'a, V> {
    pub intake: &'a Intake,
    pub view: &'a V,
    /// What was judged here and gets no place, and whether it was rejected.
    pub outliers: HashMap<OwnedEventId, (Arc<Event>, bool)>,
}

impl<V: View> Court<'_, V> {
    /// An event that the server has, or that was judged here: what was not judged is not believed.
    fn find(&self, id: &EventId) -> Option<Arc<Event>> {
        let here = self.outliers.get(id).map(|(event, _)| event.clone());
        here.or_else(|| self.view.event(id).map(|known| known.event))
    }

    fn is_rejected(&self, id: &EventId) -> bool {
        match self.outliers.get(id) {
            Some((_, rejected)) => *rejected,
            None => self.view.event(id).is_some_and(|known| known.rejected),
        }
    }

    /// Judges an event without a place by its auth events. One whose auth events cannot be had cannot be believed.
    pub fn judge_outlier(&mut self, event: &Arc<Event>) -> Result<Verdict, Pause> {
        let verdict = match self.by_auth_events(event)? {
            Ok(()) => Verdict::Outlier,
            Err(refusal) => Verdict::Rejected(refusal),
        };
        self.outliers.insert(event.event_id.clone(), (event.clone(), verdict != Verdict::Outlier));
        Ok(verdict)
    }

    pub fn judge(&self, event: &Arc<Event>) -> Result<(Verdict, Before), Pause> {
        let rules = self.intake.rules;
        let before = self.before(event)?;
        if let Err(refusal) = self.by_auth_events(event)? {
            return Ok((Verdict::Rejected(refusal), before));
        }
        if let Err(refusal) = auth::check(rules, event, |kind, key| {
            self.entry(&before, kind, key).or_else(|| self.claimed(event, kind, key))
        }) {
            // A state of which nobody has everything may lack just what would allow the event.
            return match self.lacks_of_state(event) {
                true => Err(Pause::Fail(Unjudged::IncompleteState(event.event_id.clone()))),
                false => Ok((Verdict::Rejected(refusal), before)),
            };
        }
        if self.view.event(&event.event_id).is_some_and(|known| known.rejected) {
            // As an outlier it was rejected by its auth events, and they do not change.
            return Ok((Verdict::Rejected(Refusal::RejectedBefore), before));
        }
        if let Some(current) = self.current(event, &before)?
            && let Err(refusal) = auth::check(rules, event, |kind, key| {
                self.entry(&current, kind, key).or_else(|| self.claimed(event, kind, key))
            })
        {
            return Ok((Verdict::SoftFailed(refusal), before));
        }
        match self.police(event)? {
            Some(refusal) => Ok((Verdict::SoftFailed(refusal), before)),
            None => Ok((Verdict::Accepted, before)),
        }
    }

    /// Step 7 of the checks.
    fn police(&self, event: &Arc<Event>) -> Result<Option<Refusal>, Pause> {
        let Some(policy) = self.view.policy() else { return Ok(None) };
        if policy.recommends(event, self.intake.rules) {
            return Ok(None);
        }
        match self.intake.policed.contains(&event.event_id) {
            true => Ok(Some(Refusal::NotApproved { policy_server: policy.via })),
            false => Err(Pause::NeedApproval { policy: Box::new(policy), event: Arc::clone(event) }),
        }
    }

    /// The current state of the room, where that is not the state before the event anyway.
    ///
    /// Where something is missing between ours and an event, this server may have been away for long, so that its own
    /// current state knows nothing of those who have come since. A gap is easily made up, though, so that the given
    /// state alone does not count either.
    fn current(&self, event: &Event, before: &Before) -> Result<Option<Before>, Pause> {
        let current = self.view.current_state();
        // Nothing is current before the room has begun.
        if self.view.extremities().is_empty() {
            return Ok(None);
        }
        if self.intake.states.contains_key(&event.event_id) {
            let states = [Some(self.view.entries(current)), self.map(before)].into_iter().flatten().collect();
            return self.resolve(states).map(|state| Some(Before::State(Arc::new(state))));
        }
        Ok((!self.is_at_the_end(event)).then_some(Before::Known(current)))
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

    /// Whether an event comes right after all ends of the room.
    fn is_at_the_end(&self, event: &Event) -> bool {
        self.view.extremities().iter().eq(event.prev_events.iter().collect::<BTreeSet<_>>())
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
        let mut known: Vec<(Base, &EventId)> = Vec::new();
        for prev in &event.prev_events {
            if let Some(base) = self.base(prev)
                && !known.iter().any(|(other, _)| *other == base)
            {
                known.push((base, prev));
            }
        }
        let prevs: Vec<&EventId> = known.iter().map(|(_, prev)| *prev).collect();
        match (&prevs[..], given.map(|ids| self.given_state(ids))) {
            ([], None) => Ok(Before::Nothing),
            ([], Some(given)) => Ok(Before::State(Arc::new(given))),
            ([prev], None) => Ok(Before::After((*prev).to_owned())),
            (_, None) if self.is_at_the_end(event) => Ok(Before::Known(self.view.current_state())),
            (prevs, given) => {
                let known = if given.is_none() { self.view.state_after_all(prevs) } else { None };
                if let Some(state) = known {
                    return Ok(Before::Known(state));
                }
                let states = prevs.iter().filter_map(|prev| self.map_after(prev)).chain(given).collect();
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
        let before = self.view.state_before(id)?;
        let changes = !self.is_rejected(id) && self.find(id).is_some_and(|event| event.is_state());
        Some(if changes { Base::Changed(id.to_owned()) } else { Base::Known(before) })
    }

    /// One entry of the state before an event.
    fn entry(&self, before: &Before, kind: &str, key: &str) -> Option<Arc<Event>> {
        match before {
            Before::Nothing | Before::Unknown => None,
            Before::State(state) => self.find(state.get(&(kind.to_owned(), key.to_owned()))?),
            Before::Known(state) => self.find(&self.view.entry(*state, kind, key)?),
            Before::After(prev) => {
                let own = self.find(prev).filter(|event| event.is(kind, key) && !self.is_rejected(prev));
                own.or_else(|| self.find(&self.view.entry(self.view.state_before(prev)?, kind, key)?))
            }
        }
    }

    /// The whole state before an event.
    fn map(&self, before: &Before) -> Option<StateMap> {
        match before {
            Before::Nothing | Before::Unknown => None,
            Before::State(state) => Some((**state).clone()),
            Before::Known(state) => Some(self.view.entries(*state)),
            Before::After(prev) => self.map_after(prev),
        }
    }

    /// The whole state after an event.
    fn map_after(&self, id: &EventId) -> Option<StateMap> {
        let mut state = self.view.entries(self.view.state_before(id)?);
        if let Some(event) = self.find(id).filter(|_| !self.is_rejected(id))
            && let Some((kind, key)) = event.key()
        {
            state.insert((kind.to_owned(), key.to_owned()), event.event_id.clone());
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
