//! What a server in a room answers to one whose user wants to come in or go out.

use http::Method;
use ingle::{
    protocol::{canonical, event::Event},
    rooms::{append, append::NewEvent, partial},
};
use serde_json::{Value, json};

use crate::harness::{Answer, Network, Server, User, network, quoted};

/// Ann's server, which has a public room, and Bob's, which is not in it yet.
async fn scene() -> (Network, User, User, String) {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").with("room_version", "11").await;
    (network, ann, bob, room)
}

async fn make(from: &User, to: &Server, kind: &str, room: &str, user: &str) -> Answer {
    let path = format!("/_matrix/federation/v1/make_{kind}/{}/{}?ver=11", quoted(room), quoted(user));
    from.server.ask_server(to, Method::GET, &path, None).await
}

/// A member event of Bob's, on top of what Ann's server sees, signed by Bob's.
fn event(ann: &User, bob: &User, room: &str, kind: &str, state_key: &str, content: Value) -> Event {
    let rooms = &ann.server.ctx.rooms;
    let room = rooms.find(<&ruma::RoomId>::try_from(room).expect("a room ID")).expect("the room");
    let content = canonical::to_object(&content).expect("content");
    let draft = rooms.decide(&room).draft(NewEvent::state(&bob.id, kind, state_key, content)).expect("a draft");
    append::sign(&bob.server.ctx.rooms, draft, room.rules).expect("an event")
}

async fn send(from: &User, to: &Server, endpoint: &str, room: &str, event_id: &str, pdu: Value) -> Answer {
    let path = format!("/_matrix/federation/{endpoint}/{}/{}", quoted(room), quoted(event_id));
    from.server.ask_server(to, Method::PUT, &path, Some(pdu)).await
}

fn pdu(event: &Event) -> Value {
    serde_json::from_str(event.json()).expect("JSON")
}

#[tokio::test]
async fn a_template_is_of_the_event_that_was_asked_for() {
    let (_network, ann, bob, room) = scene().await;
    let answer = make(&bob, &ann.server, "join", &room, bob.id.as_str()).await.ok();
    let event = &answer["event"];
    assert_eq!(answer["room_version"], "11");
    assert_eq!(event["content"], json!({ "membership": "join" }));
    let about = ["type", "room_id", "sender", "state_key", "origin"].map(|field| event[field].as_str().unwrap_or(""));
    assert_eq!(about, ["m.room.member", &room, bob.id.as_str(), bob.id.as_str(), "a.example"]);
    assert!(event["origin_server_ts"].is_u64() && event["depth"].is_u64(), "{event}");
    assert!(event["prev_events"].is_array() && event["auth_events"].is_array(), "{event}");
    make(&bob, &ann.server, "join", &room, "@eve:e.example").await.is("403 M_FORBIDDEN");
    make(&bob, &ann.server, "leave", &room, bob.id.as_str()).await.is("403 M_FORBIDDEN");
    make(&bob, &ann.server, "knock", &room, bob.id.as_str()).await.is("403 M_FORBIDDEN");
    make(&bob, &ann.server, "join", "!nowhere:a.example", bob.id.as_str()).await.is("404 M_NOT_FOUND");
    let path = format!("/_matrix/federation/v1/make_join/{}/{}", quoted(&room), bob.id);
    let refused = bob.server.ask_server(&ann.server, Method::GET, &path, None).await;
    assert_eq!(refused.is("400 M_INCOMPATIBLE_ROOM_VERSION")["room_version"], "11");
    ann.ban(&room, &bob).await.ok();
    make(&bob, &ann.server, "join", &room, bob.id.as_str()).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn only_what_the_endpoint_is_for_comes_in() {
    let (_network, ann, bob, room) = scene().await;
    let own = bob.id.as_str();
    let member = |membership: &str| json!({ "membership": membership });
    let join = event(&ann, &bob, &room, "m.room.member", own, member("join"));
    for endpoint in ["v1/send_join", "v2/send_join"] {
        let wrong = [
            event(&ann, &bob, &room, "m.room.topic", "", json!({ "topic": "mine" })),
            event(&ann, &bob, &room, "m.room.member", own, member("leave")),
            event(&ann, &bob, &room, "m.room.member", own, member("knock")),
            event(&ann, &bob, &room, "m.room.member", "@eve:b.example", member("join")),
            event(&ann, &ann, &room, "m.room.member", ann.id.as_str(), member("join")),
        ];
        for event in wrong {
            let answer = send(&bob, &ann.server, endpoint, &room, event.event_id.as_str(), pdu(&event)).await;
            answer.is("400 M_INVALID_PARAM");
        }
        let id = join.event_id.as_str();
        send(&bob, &ann.server, endpoint, &room, "$other", pdu(&join)).await.is("400 M_INVALID_PARAM");
        send(&bob, &ann.server, endpoint, "!nowhere:a.example", id, pdu(&join)).await.is("404 M_NOT_FOUND");
        let mut forged = pdu(&join);
        forged["signatures"]["b.example"]["ed25519:net"] = json!("x".repeat(86));
        send(&bob, &ann.server, endpoint, &room, id, forged).await.is("400 M_INVALID_PARAM");
        let mut bare = pdu(&join);
        bare["signatures"] = json!({});
        send(&bob, &ann.server, endpoint, &room, id, bare).await.is("400 M_INVALID_PARAM");
        let mut shapeless = pdu(&join);
        shapeless["depth"] = json!("deep");
        send(&bob, &ann.server, endpoint, &room, id, shapeless).await.is("400 M_BAD_JSON");
    }
    send(&bob, &ann.server, "v2/send_leave", &room, join.event_id.as_str(), pdu(&join)).await.is("400 M_INVALID_PARAM");
    send(&bob, &ann.server, "v1/send_knock", &room, join.event_id.as_str(), pdu(&join)).await.is("400 M_INVALID_PARAM");
    ann.ban(&room, &bob).await.ok();
    send(&bob, &ann.server, "v2/send_join", &room, join.event_id.as_str(), pdu(&join)).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn a_join_is_answered_with_the_state_before_it() {
    let (network, ann, bob, room) = scene().await;
    let cid = network.server("c.example").await.with_user("cid").await;
    cid.join_via(&room, &ann.server).await.ok();
    let bea = bob.server.with_user("bea").await;
    let join =
        |user: &User| event(&ann, user, &room, "m.room.member", user.id.as_str(), json!({ "membership": "join" }));
    let first = join(&bob);
    let answer = send(&bob, &ann.server, "v1/send_join", &room, first.event_id.as_str(), pdu(&first)).await.ok();
    assert_eq!(answer[0], 200);
    assert_eq!(answer[1]["event"], pdu(&first));
    assert_eq!(answer[1].get("servers_in_room"), None);
    let types = |list: &Value| {
        let mut types: Vec<_> = list.as_array().expect("a list").iter().map(|event| event["type"].clone()).collect();
        types.sort_by_key(Value::to_string);
        types.dedup();
        types.iter().filter_map(|kind| Some(kind.as_str()?.to_owned())).collect::<Vec<_>>()
    };
    let state = types(&answer[1]["state"]);
    assert!(state.contains(&"m.room.member".to_owned()) && state.contains(&"m.room.join_rules".to_owned()));
    // All that the join rests on, which nothing else needs to rest on.
    assert!(types(&answer[1]["auth_chain"]).contains(&"m.room.power_levels".to_owned()));
    let again = send(&bob, &ann.server, "v1/send_join", &room, first.event_id.as_str(), pdu(&first)).await.ok();
    assert_eq!(again[1]["state"], answer[1]["state"]);
    let second = join(&bea);
    let endpoint = format!("{}?omit_members=true", quoted(second.event_id.as_str()));
    let path = format!("/_matrix/federation/v2/send_join/{}/{endpoint}", quoted(&room));
    let answer = bob.server.ask_server(&ann.server, Method::PUT, &path, Some(pdu(&second))).await.ok();
    assert_eq!(answer["members_omitted"], true);
    let mut servers: Vec<_> =
        answer["servers_in_room"].as_array().expect("servers").iter().filter_map(Value::as_str).collect();
    servers.sort();
    assert_eq!(servers, ["a.example", "b.example", "c.example"], "Bob was there before Bea");
}

#[tokio::test]
async fn a_server_that_is_kept_out_cannot_even_invite() {
    let (_network, ann, bob, room) = scene().await;
    bob.join_via(&room, &ann.server).await.ok();
    let id = <&ruma::RoomId>::try_from(&*room).expect("a room ID");
    partial::whole_by_id(&bob.server.ctx.rooms, id).await.expect("all members");
    let guest = "@gil:a.example";
    let invite = event(&ann, &bob, &room, "m.room.member", guest, json!({ "membership": "invite" }));
    ann.server.with_user("gil").await;
    let acl = json!({ "allow": ["*"], "deny": ["b.example"] });
    ann.set(&room, "m.room.server_acl", "", acl).await.ok();
    let event_id = invite.event_id.as_str();
    send(&bob, &ann.server, "v1/invite", &room, event_id, pdu(&invite)).await.is("403 M_FORBIDDEN");
    let body = json!({ "room_version": "11", "event": pdu(&invite), "invite_room_state": [] });
    send(&bob, &ann.server, "v2/invite", &room, event_id, body).await.is("403 M_FORBIDDEN");
    for kind in ["join", "leave", "knock"] {
        make(&bob, &ann.server, kind, &room, bob.id.as_str()).await.is("403 M_FORBIDDEN");
    }
    let leave = event(&ann, &bob, &room, "m.room.member", bob.id.as_str(), json!({ "membership": "leave" }));
    for endpoint in ["v1/send_join", "v2/send_join", "v1/send_leave", "v2/send_leave", "v1/send_knock"] {
        let answer = send(&bob, &ann.server, endpoint, &room, leave.event_id.as_str(), pdu(&leave)).await;
        answer.is("403 M_FORBIDDEN");
    }
}

#[tokio::test]
async fn an_invite_is_signed_if_it_is_one() {
    let (_network, ann, bob, room) = scene().await;
    let content = json!({ "membership": "invite" });
    let invite = |state_key: &str, content: Value| event(&ann, &ann, &room, "m.room.member", state_key, content);
    let good = invite(bob.id.as_str(), content.clone());
    let ask = async |event: &Event, body: Value| {
        send(&ann, &bob.server, "v2/invite", &room, event.event_id.as_str(), body).await
    };
    // Servers of old show nothing of the room.
    for shown in [json!({}), json!({ "invite_room_state": null }), json!({ "invite_room_state": [] })] {
        let mut body = json!({ "room_version": "11", "event": pdu(&good) });
        body.as_object_mut().expect("an object").extend(shown.as_object().expect("an object").clone());
        let signed = ask(&good, body).await.ok();
        assert!(signed["event"]["signatures"]["b.example"].is_object(), "{signed}");
    }
    ask(&good, json!({ "room_version": "11" })).await.is("400 M_MISSING_PARAM");
    ask(&good, json!({ "event": pdu(&good) })).await.is("400 M_MISSING_PARAM");
    for wrong in [
        invite("@gil:elsewhere.example", content.clone()),
        invite(bob.id.as_str(), json!({ "membership": "ban" })),
        event(&ann, &bob, &room, "m.room.member", bob.id.as_str(), content.clone()),
        event(&ann, &ann, &room, "m.room.topic", bob.id.as_str(), content),
    ] {
        ask(&wrong, json!({ "room_version": "11", "event": pdu(&wrong) })).await.is("400 M_INVALID_PARAM");
    }
    let mut forged = pdu(&good);
    forged["signatures"]["a.example"]["ed25519:net"] = json!("x".repeat(86));
    ask(&good, json!({ "room_version": "11", "event": forged })).await.is("400 M_INVALID_PARAM");
}

#[tokio::test]
async fn one_condition_that_nobody_knows_does_not_close_a_restricted_room() {
    let (_network, ann, bob, space) = scene().await;
    bob.join_via(&space, &ann.server).await.ok();
    let allow = json!(["nonsense", { "type": "org.example.moon" }, { "type": "m.room_membership", "room_id": space }]);
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "restricted", "allow": allow } }]);
    let room = ann.create_room().with("initial_state", rules).await;
    bob.join_via(&room, &ann.server).await.ok();
}
