//! Ingle: a Matrix homeserver for one household.
//!
//! # The idea in six sentences
//!
//! 1. [`protocol`] decides: event format, hashes, signatures, authorization, state resolution, visibility
//!    and push rules are ordinary functions over values, without I/O, clock or chance.
//! 2. [`store`] remembers: typed tables over sled behind a journal of its own. All changes of one action are
//!    one [`store::Write`], which commits whole or not at all and gets the next positions of one log.
//! 3. [`rooms`] is the only writer of events. In the same `Write` it records the event and what is derived
//!    from it ([`rooms::projections`]).
//! 4. Everyone else follows the log: [`sync`], [`push`] and [`outbound`] read from a position of their own and are
//!    woken by the store. Nobody calls them, so nobody depends on them.
//! 5. [`api`] translates: a handler is one async function `(Ctx, Caller, Request) -> Result<Response>`; ruma's
//!    request type says method, paths, authentication and rate limit.
//! 6. [`http`] uses warp once: one filter lifts every request into one table of routes.
//!
//! # Layers
//!
//! A row may import the rows below it, never upward, never sideways; `tests/tidy.rs` keeps this true.
//!
//! | modules | what they are | what they never contain |
//! |---|---|---|
//! | `main`, [`cli`] | the command line | logic |
//! | [`server`], [`tasks`] | sockets, TLS, stopping; followers and periodic jobs | Matrix endpoints |
//! | [`api`] | client, federation and pages, by the chapters of the specification | sled, Matrix rules, retries |
//! | [`http`] | routes, callers, replies, limits | endpoints |
//! | [`app`] | the contexts of all layers in one place | anything else |
//! | [`sync`], [`push`], [`outbound`], [`admin`] | readers of the log; what an admin does | a function that a lower layer calls |
//! | [`rooms`], [`users`], [`e2ee`] | what happens in rooms; accounts; keys (left may use right) | HTTP |
//! | [`remote`] | other servers: discovery, transport, keys, back-off | knowledge of rooms |
//! | [`store`] | tables, journal, log, archive, [`store::schema`] | Matrix rules |
//! | [`protocol`] | the rules | tokio, warp, sled, clocks, randomness |
//! | [`error`], [`config`], [`clock`], [`chance`], [`limits`], [`heavy`] | what all of them speak in | |
//!
//! # Durability
//!
//! Whoever decides holds the lock of its subject and builds a `Write`; `commit` queues it and returns a ticket.
//! The journal thread appends what is queued as one group and calls `fdatasync` once; the applier writes the
//! group to sled, publishes its positions and wakes those whom it names. A handler answers when its ticket is
//! published. So sled only ever holds what the journal has on the disk, readers only see what is durable, and a
//! 200 means that it will still be there after a power cut.
//!
//! # Three walks through the house
//!
//! *A message is sent.* `api::client::rooms::send` → `rooms::send` takes [`rooms::Rooms::decide`], which locks the
//! room with its newest state → [`rooms::append::Deciding::send`] composes, signs and authorizes → the `Write`
//! holds the event, the change of state, and the rows of every projection (timeline, relations, who is notified,
//! outbox) → the ticket → `/sync` of those in the room wakes, and [`outbound`] finds a row in the outbox.
//!
//! *A transaction arrives.* [`remote::inbound`] checks the signature of the request → `api::federation::send` hands
//! the PDUs to [`rooms::inbox`] → [`protocol::intake`] judges them → with the room locked, verdicts and events are
//! written down → the answer says per PDU what happened. A PDU for which something is missing becomes a row and is
//! answered too; [`rooms::intake`] then fetches what `protocol::intake` asks for, without a lock.
//!
//! *A client waits.* [`sync`] listens for its user, fixes the published position, and looks: a user for whom
//! nothing was written costs one look in memory, however many rooms there are. Otherwise it reads the rooms and
//! rows that changed since the token and shapes the answer, or sleeps until a `Write` names the user.
//!
//! # State
//!
//! A state is a set of (state key number → event number). On the disk it is a difference from an older state,
//! merged so that each is at least twice as large as the one that builds on it: a state of `n` entries is loaded
//! from `log2(n)` rows ([`rooms::state`]). In memory it is a shared immutable map. Where the event graph forks,
//! [`rooms::forks`] resolves, on threads that may block, and what changes goes through the same projections.

pub mod admin;
pub mod api;
pub mod app;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod e2ee;
pub mod error;
pub mod heavy;
pub mod http;
pub mod limits;
pub mod observe;
pub mod outbound;
pub mod protocol;
pub mod push;
pub mod remote;
pub mod rooms;
pub mod server;
pub mod store;
pub mod sync;
pub mod tasks;
pub mod users;
