//! An event from another server: the checks on its receipt, as a state machine without I/O.
//!
//! [`admit`] does what needs the event alone: format, signatures, hash. [`Intake`] does the rest: it asks
//! for what is missing ([`Step::Need`], [`Step::NeedState`]), is given what could be fetched, and says in
//! the end what becomes of the event and of those that came with it ([`Step::Done`]). What the server
//! already has comes in through a [`View`]; each step looks at it anew, so the room need not be locked
//! while something is fetched, and what the last step says holds for the view that it was given.
//!
//! Nothing is recorded here, and nothing fetched; both is the work of `rooms::intake`.
//!
//! Spec: server-server-api#checks-performed-on-receipt-of-a-pdu

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, ServerName};

use super::{
    auth::{self, Refusal},
    canonical::Object,
    event::{Event, FormatError},
    graph,
    redact::redact,
    resolve::{self, Lookup, ResolveError, StateMap},
    sign::{self, PublicKey, SignatureError, verify_event},
    version::Rules,
};

/// How many events between ours and the new one are fetched before its state is asked for instead.
pub const MAX_GAP: usize = 100;
/// How many events one intake holds: those of the gap, their auth events, and fetched states.
pub const MAX_EVENTS: usize = 100_000;
/// How often one intake asks.
pub const MAX_ROUNDS: usize = 32;

/// Why an event is dropped on receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropped {
    Format(FormatError),
    Signature(SignatureError),
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(error) => error.fmt(f),
            Self::Signature(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Dropped {}

/// Checks format, signatures and content hash of a PDU. One whose hash does not fit is redacted: its
/// content is not what its sender signed. The keys are looked up as for [`verify_event`].
pub fn admit(
    pdu: Object,
    rules: &Rules,
    public_key: impl Fn(&ServerName, &str) -> Option<PublicKey>,
) -> Result<Event, Dropped> {
    match verify_event(&pdu, rules, public_key) {
        sign::Verdict::Valid => Event::from_object(pdu, rules).map_err(Dropped::Format),
        sign::Verdict::HashMismatch => Event::from_object(redact(&pdu, rules), rules).map_err(Dropped::Format),
        // A PDU that is malformed is told so, rather than that nobody has signed it.
        sign::Verdict::BadSignature(error) => match Event::from_object(pdu, rules) {
            Ok(_) => Err(Dropped::Signature(error)),
            Err(error) => Err(Dropped::Format(error)),
        },
    }
}

/// An event that the server has.
#[derive(Clone, Debug)]
pub struct Known {
    pub event: Arc<Event>,
    pub rejected: bool,
}

/// A state that the server has, by a number of its own. Equal numbers are equal states.
pub type StateId = u64;

/// What the server knows of the room.
pub trait View {
    /// An event, outlier or not.
    fn event(&self, id: &EventId) -> Option<Known>;
    /// The state before an event; `None` if the event is unknown or an outlier.
    fn state_before(&self, id: &EventId) -> Option<StateId>;
    /// The forward extremities.
    fn extremities(&self) -> BTreeSet<OwnedEventId>;
    /// The current state, resolved over all extremities.
    fn current_state(&self) -> StateId;
    /// One entry of a state.
    fn entry(&self, state: StateId, kind: &str, state_key: &str) -> Option<OwnedEventId>;
    /// A whole state. Asked for only where states must be resolved.
    fn entries(&self, state: StateId) -> StateMap;
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Fetch these events and [`Intake::supply`] them, as far as they can be had.
    Need(Vec<OwnedEventId>),
    /// Fetch the IDs of the state before this event, from a server that has it, for [`Intake::state`].
    NeedState(OwnedEventId),
    /// Record these, in this order; the event itself is the last. If it cannot be judged, forget it.
    Done(Result<Vec<Judged>, Unjudged>),
}

/// An event with what was decided on it.
#[derive(Clone, Debug)]
pub struct Judged {
    pub event: Arc<Event>,
    pub verdict: Verdict,
    pub before: Before,
}

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// Kept, but neither shown nor built upon. Spec: server-server-api#soft-failure
    SoftFailed(Refusal),
    /// Kept for the graph's sake, without effect on the state. Spec: server-server-api#rejection
    Rejected(Refusal),
    /// Needed by others (as an auth event, or in a state), and without a place in the graph.
    Outlier,
}

/// The state before an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// There is nothing before the room's first event.
    Nothing,
    /// The state after this one of its previous events.
    After(OwnedEventId),
    /// A state of its own: resolved, or as another server gave it.
    State(Arc<StateMap>),
    /// Not known, for outliers.
    Unknown,
}

/// Why an event cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unjudged {
    /// An event that it rests on cannot be had.
    Missing(OwnedEventId),
    /// The state before this event cannot be had.
    MissingState(OwnedEventId),
    /// The event precedes itself.
    Cycle,
    /// More was missing than is fetched for one event.
    TooMuch,
}

impl fmt::Display for Unjudged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(id) => write!(f, "the event {id}, on which this one rests, cannot be found"),
            Self::MissingState(id) => write!(f, "the state before {id} cannot be found"),
            Self::Cycle => f.write_str("the event comes before itself"),
            Self::TooMuch => f.write_str("too many events before this one are missing"),
        }
    }
}

impl std::error::Error for Unjudged {}

/// The intake of one event.
pub struct Intake {
    rules: &'static Rules,
    target: Arc<Event>,
    /// What was supplied, and the event itself.
    supplied: HashMap<OwnedEventId, Arc<Event>>,
    /// What was asked for and need not be asked for again.
    asked: HashSet<OwnedEventId>,
    /// Fetched states, by the event that they are before; `None` if there was none to be had.
    states: HashMap<OwnedEventId, Option<Vec<OwnedEventId>>>,
    rounds: usize,
}

enum Pause {
    Need(BTreeSet<OwnedEventId>),
    NeedState(OwnedEventId),
    Fail(Unjudged),
}

impl Intake {
    /// Begins with an admitted event.
    pub fn new(rules: &'static Rules, event: Event) -> Self {
        let target = Arc::new(event);
        Self {
            rules,
            supplied: HashMap::from([(target.event_id.clone(), target.clone())]),
            target,
            asked: HashSet::new(),
            states: HashMap::new(),
            rounds: 0,
        }
    }

    /// Takes admitted events that were asked for. More than asked for is welcome: the events between, as
    /// `/get_missing_events` answers, or a whole auth chain.
    pub fn supply(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            if self.supplied.len() < MAX_EVENTS && event.room_id == self.target.room_id {
                self.supplied.entry(event.event_id.clone()).or_insert_with(|| Arc::new(event));
            }
        }
    }

    /// Takes the IDs of the state before an event, as another server gives it, or that it cannot be had.
    /// Events of it that are new here may be supplied as well, or will be asked for.
    pub fn state(&mut self, before: OwnedEventId, ids: Option<Vec<OwnedEventId>>) {
        self.states.insert(before, ids.filter(|ids| ids.len() <= MAX_EVENTS));
    }

    /// What to do next, as the server's knowledge is now.
    pub fn step(&mut self, view: &impl View) -> Step {
        let pause = match self.judge(view) {
            Ok(judged) => return Step::Done(Ok(judged)),
            Err(Pause::Fail(why)) => return Step::Done(Err(why)),
            Err(pause) if self.rounds < MAX_ROUNDS => pause,
            Err(_) => return Step::Done(Err(Unjudged::TooMuch)),
        };
        self.rounds += 1;
        match pause {
            Pause::Need(ids) => {
                self.asked.extend(ids.iter().cloned());
                Step::Need(ids.into_iter().collect())
            }
            Pause::NeedState(id) => Step::NeedState(id),
            Pause::Fail(why) => Step::Done(Err(why)),
        }
    }

    fn judge(&self, view: &impl View) -> Result<Vec<Judged>, Pause> {
        let gap = self.gap(view)?;
        let outliers = self.outliers(view, &gap)?;
        let events: Vec<Arc<Event>> = gap.values().chain(outliers.values()).cloned().collect();
        let mut court = Court {
            intake: self,
            view,
            pending: events.iter().map(|event| (event.event_id.clone(), event.clone())).collect(),
            judged: HashMap::new(),
            ends: view.extremities(),
            current: Current::Of(view.current_state()),
        };
        let mut out = Vec::with_capacity(events.len());
        for event in graph::causal_order(&events) {
            let (verdict, before) = match gap.contains_key(&event.event_id) {
                true => court.judge(&event)?,
                false => (court.judge_outlier(&event)?, Before::Unknown),
            };
            court.judged.insert(event.event_id.clone(), (verdict.clone(), before.clone()));
            out.push(Judged { event, verdict, before });
        }
        // Nothing rests on the event itself, so its place may as well be the last.
        match out.iter().position(|judged| judged.event.event_id == self.target.event_id) {
            Some(at) => {
                let target = out.remove(at);
                out.push(target);
                Ok(out)
            }
            None => Err(Pause::Fail(Unjudged::Cycle)),
        }
    }

    fn find(&self, view: &impl View, id: &EventId) -> Option<Arc<Event>> {
        self.supplied.get(id).cloned().or_else(|| view.event(id).map(|known| known.event))
    }

    /// The event and those before it, back to where the server knows the state.
    fn gap(&self, view: &impl View) -> Result<BTreeMap<OwnedEventId, Arc<Event>>, Pause> {
        let mut gap = BTreeMap::new();
        let mut open = VecDeque::from([self.target.clone()]);
        let mut need = BTreeSet::new();
        let mut need_state = None;
        while let Some(event) = open.pop_front() {
            if gap.insert(event.event_id.clone(), event.clone()).is_some() {
                continue;
            }
            let given = self.states.get(&event.event_id);
            for prev in &event.prev_events {
                if view.state_before(prev).is_some() || gap.contains_key(prev) {
                    continue;
                }
                match self.find(view, prev) {
                    Some(event) if gap.len() + open.len() < MAX_GAP => open.push_back(event),
                    _ if matches!(given, Some(Some(_))) => {}
                    None if !self.asked.contains(prev) && gap.len() + need.len() < MAX_GAP => {
                        need.insert(prev.clone());
                    }
                    _ if given.is_some() => return Err(Pause::Fail(Unjudged::MissingState(event.event_id.clone()))),
                    _ => need_state = Some(event.event_id.clone()),
                }
            }
        }
        match need_state {
            _ if !need.is_empty() => Err(Pause::Need(need)),
            Some(id) => Err(Pause::NeedState(id)),
            None => Ok(gap),
        }
    }

    /// Auth events and state events that the server does not have yet.
    fn outliers(
        &self,
        view: &impl View,
        gap: &BTreeMap<OwnedEventId, Arc<Event>>,
    ) -> Result<BTreeMap<OwnedEventId, Arc<Event>>, Pause> {
        let mut outliers = BTreeMap::new();
        let mut need = BTreeSet::new();
        let of_states = gap.keys().filter_map(|id| self.states.get(id)?.as_ref()).flatten();
        let of_gap = gap.values().flat_map(|event| &event.auth_events);
        let mut open: Vec<OwnedEventId> = of_gap.chain(of_states).cloned().collect();
        if let Some(create) = create_id(self.rules, &self.target) {
            open.push(create);
        }
        while let Some(id) = open.pop() {
            if gap.contains_key(&id) || outliers.contains_key(&id) || view.event(&id).is_some() {
                continue;
            }
            match self.supplied.get(&id) {
                Some(event) => {
                    open.extend(event.auth_events.iter().cloned());
                    outliers.insert(id, event.clone());
                }
                None if self.asked.contains(&id) => {}
                None => {
                    need.insert(id);
                }
            }
        }
        if need.is_empty() { Ok(outliers) } else { Err(Pause::Need(need)) }
    }
}

/// From version 12 the create event is no auth event; the room's ID names it.
fn create_id(rules: &Rules, event: &Event) -> Option<OwnedEventId> {
    if !rules.room_id_is_hash || event.kind == "m.room.create" {
        return None;
    }
    OwnedEventId::try_from(event.room_id.as_str().replacen('!', "$", 1)).ok()
}

/// The room's current state, as it moves with the events that are accepted.
enum Current {
    Of(StateId),
    After(OwnedEventId),
    State(Arc<StateMap>),
}

/// Where the events of one intake are judged, one after the other.
struct Court<'a, V> {
    intake: &'a Intake,
    view: &'a V,
    pending: HashMap<OwnedEventId, Arc<Event>>,
    judged: HashMap<OwnedEventId, (Verdict, Before)>,
    ends: BTreeSet<OwnedEventId>,
    current: Current,
}

impl<V: View> Court<'_, V> {
    fn find(&self, id: &EventId) -> Option<Arc<Event>> {
        self.pending.get(id).cloned().or_else(|| self.view.event(id).map(|known| known.event))
    }

    fn is_rejected(&self, id: &EventId) -> bool {
        match self.judged.get(id) {
            Some((verdict, _)) => matches!(verdict, Verdict::Rejected(_)),
            None => self.view.event(id).is_some_and(|known| known.rejected),
        }
    }

    fn judge_outlier(&self, event: &Event) -> Result<Verdict, Pause> {
        Ok(match self.by_auth_events(event)? {
            Ok(()) => Verdict::Outlier,
            Err(refusal) => Verdict::Rejected(refusal),
        })
    }

    fn judge(&mut self, event: &Event) -> Result<(Verdict, Before), Pause> {
        let before = self.before(event)?;
        let allowed = self
            .by_auth_events(event)?
            .and_then(|()| auth::check(self.intake.rules, event, |kind, key| self.entry(&before, kind, key)));
        let known_rejected = self.view.event(&event.event_id).is_some_and(|known| known.rejected);
        if let Err(refusal) = allowed {
            return Ok((Verdict::Rejected(refusal), before));
        }
        if known_rejected {
            // As an outlier it was rejected by its auth events, and they do not change.
            return Ok((Verdict::Rejected(Refusal::RejectedBefore), before));
        }
        let is_at_the_end = self.ends.iter().eq(event.prev_events.iter().collect::<BTreeSet<_>>());
        let is_given = self.intake.states.contains_key(&event.event_id);
        if !is_at_the_end || is_given {
            let current = |kind: &str, key: &str| match &self.current {
                Current::Of(state) => self.find(&self.view.entry(*state, kind, key)?),
                Current::After(id) => self.entry(&Before::After(id.clone()), kind, key),
                Current::State(state) => self.find(state.get(&(kind.to_owned(), key.to_owned()))?),
            };
            // Nothing is current before the room has begun.
            if !self.ends.is_empty()
                && let Err(refusal) = auth::check(self.intake.rules, event, current)
            {
                return Ok((Verdict::SoftFailed(refusal), before));
            }
        }
        self.move_on(event, &before)?;
        Ok((Verdict::Accepted, before))
    }

    /// Makes the accepted event an end of the room, and the current state what follows from it.
    fn move_on(&mut self, event: &Event, before: &Before) -> Result<(), Pause> {
        let id = &event.event_id;
        self.judged.insert(id.clone(), (Verdict::Accepted, before.clone()));
        graph::advance(&mut self.ends, event);
        if self.ends.len() == 1 {
            self.current = Current::After(id.clone());
        } else if event.is_state() {
            let ends: Vec<OwnedEventId> = self.ends.iter().cloned().collect();
            let states = ends.iter().filter_map(|id| self.map_after(id)).collect();
            self.current = Current::State(Arc::new(self.resolve(states)?));
        }
        Ok(())
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

#[cfg(test)]
mod tests;
