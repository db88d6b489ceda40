//! Who stands at the door of a room on another server, and what the others in the room hear of it.

use http::Method;
use ingle::{
    protocol::{canonical, compose::Draft, version},
    rooms::outside,
};
use ruma::{OwnedRoomId, RoomVersionId, events::room::member::MembershipState};
use serde_json::{Value, json};

use crate::harness::{Server, User, network};

/// Waits until something is so, looking again whenever the server has written something.
async fn until(server: &Server, what: &str, so: impl Fn() -> bool) {
    let mut log = server.ctx.store.watch();
    let comes = async {
        while !so() {
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), comes).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// How a user's own server sees them towards a room that it need not be in.
fn standing(user: &User, room: &str) -> MembershipState {
    let room = OwnedRoomId::try_from(room).expect("a room ID");
    outside::standing(&user.server.ctx.rooms, &room, &user.id).expect("good rows")
}

/// How a room on a server sees a user.
fn membership(server: &Server, room: &str, user: &User) -> Option<MembershipState> {
    let rooms = &server.ctx.rooms;
    let room = rooms.find(&OwnedRoomId::try_from(room).expect("a room ID")).ok()?;
    let current = rooms.current(room.number).expect("a state");
    rooms.in_state(&current, "m.room.member", user.id.as_str()).expect("good rows")?.event.membership()
}

#[tokio::test]
async fn all_servers_in_a_room_hear_who_comes_and_goes_through_one_of_them() {
    let network = network();
    let (a, b, c) =
        (network.server("a.example").await, network.server("b.example").await, network.server("c.example").await);
    let (ann, bob, cat) = (a.with_user("ann").await, b.with_user("bob").await, c.with_user("cat").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &a).await.ok();
    cat.join_via(&room, &a).await.ok();
    until(&b, "b hears of cat", || membership(&b, &room, &cat) == Some(MembershipState::Join)).await;
    cat.leave(&room).await.ok();
    until(&b, "b hears that cat has left", || membership(&b, &room, &cat) == Some(MembershipState::Leave)).await;
    ann.invite(&room, &cat).await.ok();
    until(&b, "b hears of the invite", || membership(&b, &room, &cat) == Some(MembershipState::Invite)).await;
    cat.leave(&room).await.ok();
    until(&b, "b hears that cat declined", || membership(&b, &room, &cat) == Some(MembershipState::Leave)).await;
}

#[tokio::test]
async fn an_invite_that_is_withdrawn_vanishes_on_the_other_server() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().invite(&bob).await;
    assert_eq!(standing(&bob, &room), MembershipState::Invite);
    ann.kick(&room, &bob).await.ok();
    until(&b, "the invite is gone", || standing(&bob, &room) == MembershipState::Leave).await;
    bob.join_via(&room, &a).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn a_knock_is_turned_away_or_taken_back() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().await;
    ann.set(&room, "m.room.join_rules", "", json!({ "join_rule": "knock" })).await.ok();
    let knock = format!("/_matrix/client/v3/knock/{}?via=a.example", crate::harness::quoted(&room));
    bob.post(&knock, json!({})).await.ok();
    assert_eq!(membership(&a, &room, &bob), Some(MembershipState::Knock));
    // The ID of the room names no server: who can help is known from the answer to the knock.
    bob.leave(&room).await.ok();
    assert_eq!(standing(&bob, &room), MembershipState::Leave);
    assert_eq!(membership(&a, &room, &bob), Some(MembershipState::Leave));
    bob.post(&knock, json!({})).await.ok();
    ann.kick(&room, &bob).await.ok();
    until(&b, "bob is turned away", || standing(&bob, &room) == MembershipState::Leave).await;
}

#[tokio::test]
async fn a_server_that_has_nothing_to_do_with_an_invite_cannot_withdraw_it() {
    let network = network();
    let (a, b, c) =
        (network.server("a.example").await, network.server("b.example").await, network.server("c.example").await);
    let (ann, bob, eve) = (a.with_user("ann").await, b.with_user("bob").await, c.with_user("eve").await);
    let (room, other) = (ann.create_room().invite(&bob).await, ann.create_room().invite(&bob).await);
    for (sender, from) in [(&eve, &c), (&ann, &a)] {
        let body = withdrawal(sender, &bob, &room);
        let path = format!("/_matrix/federation/v1/send/from-{}", sender.id.localpart());
        from.ask_server(&b, Method::PUT, &path, Some(body)).await.ok();
        let expected = if sender.id == ann.id { MembershipState::Leave } else { MembershipState::Invite };
        assert_eq!(standing(&bob, &room), expected, "after what {} said", sender.id);
    }
    assert_eq!(standing(&bob, &other), MembershipState::Invite);
}

/// A transaction in which somebody takes somebody else out of a room, signed by their server.
fn withdrawal(sender: &User, guest: &User, room: &str) -> Value {
    let ctx = &sender.server.ctx;
    let content = canonical::to_object(&json!({ "membership": "leave" })).expect("content");
    let mut draft = Draft::new("m.room.member", sender.id.clone(), content);
    draft.room_id = Some(room.try_into().expect("a room ID"));
    draft.state_key = Some(guest.id.to_string());
    let rules = version::rules(&RoomVersionId::V12).expect("a version");
    let event = draft.sign(&ctx.config.server_name, &ctx.remote.key, rules).expect("an event");
    let now = ctx.clock.now();
    let pdu: Value = serde_json::from_str(event.to_pdu().get()).expect("JSON");
    json!({ "origin": ctx.config.server_name, "origin_server_ts": now, "pdus": [pdu] })
}
