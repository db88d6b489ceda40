//! An event from another server: the checks on its receipt, as a state machine without I/O.
//!
//! [`admit`] does what needs the event alone: format, signatures, hash. [`Intake`] does the rest: it asks
//! for what is missing ([`Step::Need`], [`Step::NeedState`]), is given what could be fetched, and says one
//! after the other what becomes of the events before it and, in the end, of itself ([`Step::Done`]). What the server
//! already has comes in through a [`View`]; each step looks at it anew, so the room need not be locked
//! while something is fetched, and what the last step says holds for the view that it was given.
//!
//! Nothing is recorded here, and nothing fetched; both is the work of `rooms::intake`.
//!
//! Spec: server-server-api#checks-performed-on-receipt-of-a-pdu

mod court;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, ServerName};

use self::court::Court;
use super::{
    auth::Refusal,
    canonical::Object,
    event::{Event, FormatError},
    graph,
    policy::PolicyServer,
    redact::{redact, signed_text},
    resolve::StateMap,
    sign::{self, PublicKey, SignatureError},
    version::Rules,
};

/// How many events between ours and the new one are fetched before its state is asked for instead.
pub const MAX_GAP: usize = 100;
/// How many events one intake holds: those of the gap, their auth events, and fetched states.
pub const MAX_EVENTS: usize = 100_000;
/// How often one intake asks until something can be judged.
pub const MAX_ROUNDS: usize = 32;
/// How often it asks for the events of a gap, until it asks for a state instead.
pub const MAX_GAP_ROUNDS: usize = 8;
/// For how many states it asks.
pub const MAX_STATES: usize = 8;

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
/// content is not what its sender signed. The keys are looked up as for [`sign::verify_event`].
pub fn admit(
    pdu: Object,
    rules: &Rules,
    public_key: impl Fn(&ServerName, &str) -> Option<PublicKey>,
) -> Result<Event, Dropped> {
    let text = signed_text(&pdu, rules);
    match sign::verify_text(&pdu, &text, rules, public_key) {
        sign::Verdict::Valid => Event::from_verified(pdu, &text, rules).map_err(Dropped::Format),
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
    pub soft_failed: bool,
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
    /// The depth at which this server has come into the room. What happened before is the room's history, and
    /// nothing that is still to be taken in: the state that came of it is asked for instead.
    fn floor(&self) -> u64;
    /// The current state, resolved over all extremities.
    fn current_state(&self) -> StateId;
    /// One entry of a state.
    fn entry(&self, state: StateId, kind: &str, state_key: &str) -> Option<OwnedEventId>;
    /// A whole state. Asked for only where states must be resolved that the server does not have.
    fn entries(&self, state: StateId) -> StateMap;
    /// The state that follows from several events which have their place here. A server that can tell looks only at
    /// what differs.
    fn state_after_all(&self, _events: &[&EventId]) -> Option<StateId> {
        None
    }
    /// Whether its states lack members, because the server has only just joined the room.
    fn lacks_members(&self) -> bool {
        false
    }
    /// The policy server that the room uses.
    fn policy(&self) -> Option<PolicyServer>;
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Fetch what lies between the room's end and the events `before`, or at the very least the events `missing`
    /// that they name as previous, and [`Intake::supply`] what could be had.
    NeedGap { before: Vec<OwnedEventId>, missing: Vec<OwnedEventId> },
    /// Fetch these events and [`Intake::supply`] them, as far as they can be had.
    Need(Vec<OwnedEventId>),
    /// Fetch the IDs of the state before this event, from a server that has it, for [`Intake::state`].
    NeedState(OwnedEventId),
    /// Ask the room's policy server to sign this event, for [`Intake::approve`].
    NeedApproval { policy: PolicyServer, event: Arc<Event> },
    /// Record these, in this order, and step again: what comes before the event is judged first, one by one.
    Record(Vec<Judged>),
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
    /// A state that the server has.
    Known(StateId),
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
    /// Nobody has all of the state before this event, and what there is of it does not allow what follows.
    IncompleteState(OwnedEventId),
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
            Self::IncompleteState(id) => write!(f, "parts of the state before {id} cannot be found"),
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
    /// The same for the events of gaps. Those that could not be had are asked for once more if a state needs them:
    /// without one of its events it would be another state.
    sought: HashSet<OwnedEventId>,
    /// Fetched states, by the event that they are before; `None` if there was none to be had.
    states: HashMap<OwnedEventId, Option<Vec<OwnedEventId>>>,
    /// About which events the policy server was asked.
    policed: HashSet<OwnedEventId>,
    rounds: usize,
    gap_rounds: usize,
}

enum Pause {
    NeedGap { before: BTreeSet<OwnedEventId>, missing: BTreeSet<OwnedEventId> },
    Need(BTreeSet<OwnedEventId>),
    NeedState(OwnedEventId),
    NeedApproval { policy: Box<PolicyServer>, event: Arc<Event> },
    Fail(Unjudged),
}

impl Intake {
    /// Begins with an admitted event.
    pub fn new(rules: &'static Rules, event: impl Into<Arc<Event>>) -> Self {
        let target = event.into();
        Self {
            rules,
            supplied: HashMap::from([(target.event_id.clone(), target.clone())]),
            target,
            asked: HashSet::new(),
            sought: HashSet::new(),
            states: HashMap::new(),
            policed: HashSet::new(),
            rounds: 0,
            gap_rounds: 0,
        }
    }

    /// The event that this is about.
    pub fn target(&self) -> &Event {
        &self.target
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

    /// The states that were given, by the event that they are before.
    pub fn given_states(&self) -> impl Iterator<Item = (&EventId, &[OwnedEventId])> {
        self.states.iter().filter_map(|(before, ids)| Some((&**before, ids.as_deref()?)))
    }

    /// Takes the events that the policy server has signed, of those about which it was asked.
    pub fn approve(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events.into_iter().filter(|event| self.policed.contains(&event.event_id)) {
            let event = Arc::new(event);
            if event.event_id == self.target.event_id {
                self.target = event.clone();
            }
            self.supplied.insert(event.event_id.clone(), event);
        }
    }

    /// What to do next, as the server's knowledge is now.
    pub fn step(&mut self, view: &impl View) -> Step {
        let pause = match self.judge(view) {
            Ok(judged) if judged.last().is_some_and(|judged| judged.event.event_id == self.target.event_id) => {
                return Step::Done(Ok(judged));
            }
            Ok(judged) => {
                self.rounds = 0;
                return Step::Record(judged);
            }
            Err(Pause::Fail(why)) => return Step::Done(Err(why)),
            Err(pause) if self.rounds < MAX_ROUNDS => pause,
            Err(_) => return Step::Done(Err(Unjudged::TooMuch)),
        };
        self.rounds += 1;
        match pause {
            Pause::NeedGap { before, missing } => {
                self.gap_rounds += 1;
                self.sought.extend(missing.iter().cloned());
                Step::NeedGap { before: before.into_iter().collect(), missing: missing.into_iter().collect() }
            }
            Pause::Need(ids) => {
                self.asked.extend(ids.iter().cloned());
                Step::Need(ids.into_iter().collect())
            }
            Pause::NeedState(_) if self.states.len() >= MAX_STATES => Step::Done(Err(Unjudged::TooMuch)),
            Pause::NeedState(id) => Step::NeedState(id),
            Pause::NeedApproval { policy, event } => {
                self.policed.insert(event.event_id.clone());
                Step::NeedApproval { policy: *policy, event }
            }
            Pause::Fail(why) => Step::Done(Err(why)),
        }
    }

    /// Judges the first event of the gap, and with it those that it needs besides.
    fn judge(&self, view: &impl View) -> Result<Vec<Judged>, Pause> {
        let gap = self.gap(view)?;
        let outliers = self.outliers(view, &gap)?;
        let mut court = Court { intake: self, view, outliers: HashMap::new() };
        let mut out = Vec::with_capacity(outliers.len() + 1);
        for event in graph::auth_order(&outliers.into_values().collect::<Vec<_>>()) {
            match court.judge_outlier(&event) {
                Ok(verdict) => out.push(Judged { event, verdict, before: Before::Unknown }),
                // It cannot be believed, and is as good as missing.
                Err(Pause::Fail(Unjudged::Missing(_))) => {}
                Err(pause) => return Err(pause),
            }
        }
        let events: Vec<_> = gap.into_values().collect();
        let ordered = graph::causal_order(&events);
        // An event behind a cycle never has its turn.
        let first = ordered.first().filter(|_| ordered.iter().any(|event| event.event_id == self.target.event_id));
        let event = first.ok_or(Pause::Fail(Unjudged::Cycle))?.clone();
        let (verdict, before) = court.judge(&event)?;
        out.push(Judged { event, verdict, before });
        Ok(out)
    }

    fn find(&self, view: &impl View, id: &EventId) -> Option<Arc<Event>> {
        self.supplied.get(id).cloned().or_else(|| view.event(id).map(|known| known.event))
    }

    /// The event and those before it, back to where the server knows the state.
    fn gap(&self, view: &impl View) -> Result<BTreeMap<OwnedEventId, Arc<Event>>, Pause> {
        let mut gap = BTreeMap::new();
        let mut open = VecDeque::from([self.target.clone()]);
        let (mut before, mut missing) = (BTreeSet::new(), BTreeSet::new());
        let mut need_state = None;
        let patient = self.gap_rounds < MAX_GAP_ROUNDS;
        let floor = view.floor();
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
                    Some(event) if event.depth >= floor && gap.len() + open.len() < MAX_GAP => open.push_back(event),
                    _ if matches!(given, Some(Some(_))) => {}
                    None if patient && !self.sought.contains(prev) && gap.len() + missing.len() < MAX_GAP => {
                        before.insert(event.event_id.clone());
                        missing.insert(prev.clone());
                    }
                    _ if given.is_some() => return Err(Pause::Fail(Unjudged::MissingState(event.event_id.clone()))),
                    _ => need_state = Some(event.event_id.clone()),
                }
            }
        }
        match need_state {
            _ if !missing.is_empty() => Err(Pause::NeedGap { before, missing }),
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

#[cfg(test)]
mod tests;
