//! Scenes with people and devices, below the API.

mod crashes;

use std::collections::BTreeSet;

use expect_test::expect;
use futures_util::FutureExt;
use proptest::prelude::*;
use ruma::{OwnedUserId, to_device::DeviceIdOrAllDevices};
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{
    protocol::{
        canonical::{self, Object},
        hash::base64,
        sign::{KeyPair, sign_json},
    },
    store::{
        Position,
        schema::{
            e2ee::{BACKUP_KEYS, LIST_CHANGES},
            numbers,
        },
    },
};

fn e2ee() -> E2ee {
    E2ee::new("test".try_into().unwrap(), Clock::by_hand(1_000_000), Store::in_memory())
}

/// A device and its secrets.
#[derive(Clone)]
struct Phone {
    user: OwnedUserId,
    number: UserNo,
    id: String,
    key: KeyPair,
}

fn seed(text: &str) -> [u8; 32] {
    let mut seed = [7; 32];
    text.bytes().enumerate().for_each(|(at, byte)| seed[at % 32] ^= byte.rotate_left(at as u32 / 32));
    seed
}

fn phone(e2ee: &E2ee, name: &str, id: &str) -> Phone {
    let user = UserId::parse(format!("@{name}:test")).unwrap();
    let mut write = e2ee.store.write();
    let number = numbers::user(&mut write, &user).unwrap();
    write.put(DEVICES, &(number, id.to_owned()), &Default::default());
    drop(write.commit().unwrap());
    let key = KeyPair::from_seed(&seed(&format!("{name}/{id}")), id);
    Phone { user, number, id: id.to_owned(), key }
}

fn to_object(value: serde_json::Value) -> Object {
    canonical::to_object(&value).unwrap()
}

impl Phone {
    fn device(&self) -> Device<'_> {
        Device { user: &self.user, number: self.number, id: &self.id }
    }

    fn identity(&self) -> Object {
        let mut keys = to_object(json!({
            "user_id": self.user, "device_id": self.id, "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": {
                format!("ed25519:{}", self.id): self.key.public().to_base64(),
                format!("curve25519:{}", self.id): base64(&seed(&self.id)),
            },
        }));
        sign_json(&mut keys, self.user.as_str(), &self.key);
        keys
    }

    fn one_time(&self, id: &str) -> (String, Object) {
        let mut key = to_object(json!({ "key": base64(&seed(id)) }));
        sign_json(&mut key, self.user.as_str(), &self.key);
        (format!("signed_curve25519:{id}"), key)
    }

    async fn upload(&self, e2ee: &E2ee, ids: &[&str]) -> Result<u64> {
        let one_time = ids.iter().map(|id| self.one_time(id)).collect();
        let upload = keys::Upload { identity: Some(self.identity()), one_time, fallback: vec![] };
        let counts = keys::upload(e2ee, self.device(), upload).await?;
        Ok(counts.get("signed_curve25519").copied().unwrap_or_default())
    }

    fn wanted(&self) -> one_time_keys::Wanted {
        [(self.user.clone(), [(self.id.as_str().into(), "signed_curve25519".into())].into())].into()
    }

    /// Claims a key of this device: its ID, or nothing.
    async fn claim(&self, e2ee: &E2ee) -> String {
        let claimed = one_time_keys::claim(e2ee, self.wanted()).await.unwrap();
        let key = claimed.keys.get(&self.user).and_then(|devices| devices.get(self.id.as_str()));
        key.map_or_else(String::new, |(name, _)| keys::split(name).1.to_owned())
    }
}

fn errcode<T>(result: Result<T>) -> String {
    result.map_or_else(|error| error.errcode.into_owned(), |_| "ok".to_owned())
}

#[tokio::test]
async fn one_time_keys_are_issued_in_upload_order_and_once() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    assert_eq!(ann.upload(&e2ee, &["z", "y"]).await.unwrap(), 2);
    assert_eq!(ann.upload(&e2ee, &["a"]).await.unwrap(), 3);
    assert_eq!([ann.claim(&e2ee).await, ann.claim(&e2ee).await, ann.claim(&e2ee).await], ["z", "y", "a"]);
    assert_eq!(ann.claim(&e2ee).await, "");
    let none = BTreeMap::from([("signed_curve25519".to_owned(), 0)]);
    assert_eq!(one_time_keys::counts(&e2ee.store, ann.number, "A").unwrap(), none);
}

#[tokio::test]
async fn an_upload_that_is_sent_again_brings_no_key_back() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    ann.upload(&e2ee, &["1", "2"]).await.unwrap();
    assert_eq!(ann.claim(&e2ee).await, "1");
    assert_eq!(ann.upload(&e2ee, &["1", "2"]).await.unwrap(), 1);
    assert_eq!([ann.claim(&e2ee).await, ann.claim(&e2ee).await], ["2", ""]);
}

#[tokio::test]
async fn another_key_of_the_same_name_is_refused() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    ann.upload(&e2ee, &["1"]).await.unwrap();
    let other = ("signed_curve25519:1".to_owned(), ann.one_time("2").1);
    let upload = keys::Upload { one_time: vec![other, ann.one_time("3")], ..Default::default() };
    let before = e2ee.store.position();
    let error = keys::upload(&e2ee, ann.device(), upload).await.unwrap_err();
    assert_eq!(error.errcode, "M_UNKNOWN");
    assert!(error.message.starts_with("One time key signed_curve25519:1 already exists. Old key: {"), "{error}");
    assert_eq!(e2ee.store.position(), before);
}

#[tokio::test]
async fn names_of_issued_keys_are_forgotten_in_the_end() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    for batch in 0..5 {
        let ids: Vec<String> = (0..300).map(|at| format!("{batch}-{at}")).collect();
        ann.upload(&e2ee, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
        for id in &ids {
            assert_eq!(ann.claim(&e2ee).await, *id);
        }
    }
    ann.upload(&e2ee, &["last"]).await.unwrap();
    assert_eq!(e2ee.store.scan(ONE_TIME_KEYS_ISSUED, &ann.number).count(), 1000);
    assert_eq!(e2ee.store.scan(ONE_TIME_KEY_IDS, &ann.number).count(), 1001);
}

#[tokio::test]
async fn a_fallback_key_is_issued_when_nothing_else_is_left() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    ann.upload(&e2ee, &["1"]).await.unwrap();
    let fallback = |id: &str| keys::Upload { fallback: vec![ann.one_time(id)], ..Default::default() };
    keys::upload(&e2ee, ann.device(), fallback("f")).await.unwrap();
    let unused = || fallback_keys::unused(&e2ee.store, ann.number, "A").unwrap();
    assert_eq!(ann.claim(&e2ee).await, "1");
    assert_eq!(unused(), ["signed_curve25519"]);
    assert_eq!([ann.claim(&e2ee).await, ann.claim(&e2ee).await], ["f", "f"]);
    assert!(unused().is_empty());
    // The same once more is still used; another is not.
    keys::upload(&e2ee, ann.device(), fallback("f")).await.unwrap();
    assert!(unused().is_empty());
    keys::upload(&e2ee, ann.device(), fallback("g")).await.unwrap();
    assert_eq!(unused(), ["signed_curve25519"]);
    assert_eq!(ann.claim(&e2ee).await, "g");
}

#[tokio::test]
async fn what_is_not_the_devices_own_is_refused_and_leaves_nothing() {
    let e2ee = e2ee();
    let (ann, bob) = (phone(&e2ee, "ann", "A"), phone(&e2ee, "bob", "B"));
    let before = e2ee.store.position();
    let check = async |change: &dyn Fn(&mut Object), expected: &str| {
        let mut identity = ann.identity();
        change(&mut identity);
        let upload = keys::Upload { identity: Some(identity), ..Default::default() };
        assert_eq!(errcode(keys::upload(&e2ee, ann.device(), upload).await), expected);
    };
    check(&|keys| *keys = bob.identity(), "M_INVALID_PARAM").await;
    check(&|keys| drop(keys.insert("device_id".into(), "B".to_owned().into())), "M_INVALID_PARAM").await;
    check(&|keys| drop(keys.insert("algorithms".into(), "x".to_owned().into())), "M_INVALID_PARAM").await;
    check(&|keys| drop(keys.remove("algorithms")), "M_INVALID_PARAM").await;
    check(&|keys| drop(keys.remove("keys")), "M_INVALID_PARAM").await;
    check(&|keys| drop(keys.remove("signatures")), "M_INVALID_SIGNATURE").await;
    check(&|keys| drop(keys.insert("forged".into(), "x".to_owned().into())), "M_INVALID_SIGNATURE").await;
    check(
        &|keys| {
            keys.remove("signatures");
            sign_json(keys, ann.user.as_str(), &KeyPair::from_seed(&[9; 32], "A"));
        },
        "M_INVALID_SIGNATURE",
    )
    .await;
    check(
        &|keys| drop(keys.insert("keys".into(), canonical::to_value(&json!({ "ed25519:A": "short" })).unwrap())),
        "M_INVALID_PARAM",
    )
    .await;

    let one_time =
        |name: &str, key: Object| keys::Upload { one_time: vec![(name.to_owned(), key)], ..Default::default() };
    let early = keys::upload(&e2ee, ann.device(), one_time("signed_curve25519:1", ann.one_time("1").1)).await;
    assert_eq!(errcode(early), "M_INVALID_PARAM");
    assert_eq!(e2ee.store.position(), before);

    ann.upload(&e2ee, &[]).await.unwrap();
    let before = e2ee.store.position();
    for (name, key, expected) in [
        ("curve25519:1", ann.one_time("1").1, "M_INVALID_PARAM"),
        ("signed_rot13:1", ann.one_time("1").1, "M_INVALID_PARAM"),
        ("signed_curve25519:", ann.one_time("1").1, "M_INVALID_PARAM"),
        ("signed_curve25519:1", bob.one_time("1").1, "M_INVALID_SIGNATURE"),
        ("signed_curve25519:1", to_object(json!({ "key": base64(&[1; 32]) })), "M_INVALID_SIGNATURE"),
        ("signed_curve25519:1", to_object(json!({ "key": "short" })), "M_INVALID_PARAM"),
        ("signed_curve25519:1", Object::new(), "M_INVALID_PARAM"),
    ] {
        assert_eq!(errcode(keys::upload(&e2ee, ann.device(), one_time(name, key)).await), expected, "{name}");
    }
    let two = keys::Upload { fallback: vec![ann.one_time("1"), ann.one_time("2")], ..Default::default() };
    assert_eq!(errcode(keys::upload(&e2ee, ann.device(), two).await), "M_INVALID_PARAM");
    assert_eq!(e2ee.store.position(), before);
}

#[tokio::test]
async fn the_identity_of_a_device_never_changes() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    ann.upload(&e2ee, &[]).await.unwrap();
    let other = Phone { key: KeyPair::from_seed(&[1; 32], "A"), ..ann.clone() };
    assert_eq!(errcode(other.upload(&e2ee, &["1"]).await), "M_INVALID_PARAM");
    let before = e2ee.store.position();
    ann.upload(&e2ee, &[]).await.unwrap();
    assert_eq!(e2ee.store.scan(LIST_CHANGES, &()).count(), 1);
    assert!(e2ee.store.position() > before);
}

#[tokio::test]
async fn everything_of_a_device_goes_with_it() {
    let e2ee = e2ee();
    let (ann, bob) = (phone(&e2ee, "ann", "A"), phone(&e2ee, "bob", "B"));
    let empty = rows(&e2ee, ann.number);
    ann.upload(&e2ee, &["1", "2"]).await.unwrap();
    ann.claim(&e2ee).await;
    let fallback = keys::Upload { fallback: vec![ann.one_time("f")], ..Default::default() };
    keys::upload(&e2ee, ann.device(), fallback).await.unwrap();
    send(&e2ee, &bob, "1", json!({ "@ann:test": { "*": { "n": 1 } } })).await.unwrap();
    send(&e2ee, &ann, "1", json!({ "@bob:test": { "*": { "n": 1 } } })).await.unwrap();
    assert!(rows(&e2ee, ann.number) > empty);
    remove(&e2ee, &ann);
    assert_eq!(rows(&e2ee, ann.number), empty);
    assert_eq!(errcode(ann.upload(&e2ee, &["3"]).await), "M_UNKNOWN_TOKEN");
    assert_eq!(ann.claim(&e2ee).await, "");
    let changes = device_lists::between(&e2ee.store, ann.number, Position(0), e2ee.store.position()).unwrap();
    assert_eq!(changes.changed, [ann.user]);
}

fn remove(e2ee: &E2ee, phone: &Phone) {
    let removing = e2ee.removing();
    let mut write = e2ee.store.write();
    write.delete(DEVICES, &phone.device().place());
    e2ee.forget_device(&removing, &mut write, phone.number, &phone.id).unwrap();
    drop(write.commit().unwrap());
}

/// How many rows there are that belong to devices of a user.
fn rows(e2ee: &E2ee, user: UserNo) -> usize {
    let store = &e2ee.store;
    store.scan(DEVICE_KEYS, &user).count()
        + store.scan(SUPPLY, &user).count()
        + store.scan(ONE_TIME_KEYS, &user).count()
        + store.scan(ONE_TIME_KEY_IDS, &user).count()
        + store.scan(ONE_TIME_KEYS_ISSUED, &user).count()
        + store.scan(FALLBACK_KEYS, &user).count()
        + store.scan(INBOX, &user).count()
        + store.scan(SENT, &user).count()
        + store.scan(SENT_AT, &user).count()
}

async fn send(e2ee: &E2ee, sender: &Phone, transaction: &str, messages: serde_json::Value) -> Result<()> {
    let mut all = inbox::Messages::new();
    for (user, devices) in messages.as_object().unwrap() {
        let devices = devices.as_object().unwrap().iter().map(|(device, content)| {
            (DeviceIdOrAllDevices::try_from(device.as_str()).unwrap(), to_raw_value(content).unwrap())
        });
        all.insert(UserId::parse(user).unwrap(), devices.collect());
    }
    inbox::send(e2ee, sender.device(), "m.dummy", transaction, &all).await
}

fn inbox_of(e2ee: &E2ee, phone: &Phone) -> String {
    let batch = inbox::read(&e2ee.store, phone.number, &phone.id, Position(0), e2ee.store.position(), 100).unwrap();
    let content = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap()["content"].to_string();
    batch.events.iter().map(content).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn messages_reach_the_devices_that_are_named_and_all_for_a_star() {
    let e2ee = e2ee();
    let (ann, bob, bobs) = (phone(&e2ee, "ann", "A"), phone(&e2ee, "bob", "B1"), phone(&e2ee, "bob", "B2"));
    send(&e2ee, &ann, "1", json!({ "@bob:test": { "B1": 1, "B3": 2 }, "@eve:test": { "*": 3 } })).await.unwrap();
    send(&e2ee, &ann, "2", json!({ "@bob:test": { "*": 4, "B2": 5 }, "@bob:elsewhere": { "*": 6 } })).await.unwrap();
    assert_eq!(inbox_of(&e2ee, &bob), "1 4");
    assert_eq!(inbox_of(&e2ee, &bobs), "5");
    assert_eq!(inbox_of(&e2ee, &ann), "");
    let batch = inbox::read(&e2ee.store, bob.number, "B1", Position(0), e2ee.store.position(), 1).unwrap();
    expect![[r#"{"type":"m.dummy","sender":"@ann:test","content":1}"#]].assert_eq(&batch.events[0]);
}

#[tokio::test]
async fn a_request_that_is_sent_again_delivers_once() {
    let e2ee = e2ee();
    let (ann, bob) = (phone(&e2ee, "ann", "A"), phone(&e2ee, "bob", "B"));
    for _ in 0..3 {
        send(&e2ee, &ann, "1", json!({ "@bob:test": { "B": 1 } })).await.unwrap();
    }
    send(&e2ee, &bob, "1", json!({ "@bob:test": { "B": 2 } })).await.unwrap();
    assert_eq!(inbox_of(&e2ee, &bob), "1 2");
}

#[tokio::test]
async fn transaction_ids_are_forgotten_after_a_day() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    for at in 0..40 {
        send(&e2ee, &ann, &at.to_string(), json!({})).await.unwrap();
        e2ee.clock.advance(std::time::Duration::from_secs(3 * 3600));
    }
    assert_eq!(e2ee.store.scan(SENT, &ann.number).count(), 9);
    assert_eq!(e2ee.store.scan(SENT_AT, &ann.number).count(), 9);
}

#[tokio::test]
async fn a_batch_is_limited_and_the_rest_waits() {
    let e2ee = e2ee();
    let (ann, bob) = (phone(&e2ee, "ann", "A"), phone(&e2ee, "bob", "B"));
    for at in 0..7 {
        send(&e2ee, &ann, &at.to_string(), json!({ "@bob:test": { "B": at } })).await.unwrap();
    }
    let upto = e2ee.store.position();
    let (mut since, mut seen) = (Position(0), Vec::new());
    loop {
        inbox::acknowledge(&e2ee.store, bob.number, "B", since).unwrap();
        assert_eq!(e2ee.store.scan(INBOX, &bob.number).count(), 7 - seen.len());
        let batch = inbox::read(&e2ee.store, bob.number, "B", since, upto, 3).unwrap();
        seen.extend(batch.events);
        since = batch.through;
        if !batch.more {
            break;
        }
    }
    assert_eq!((seen.len(), since), (7, upto));
}

#[tokio::test]
async fn oversize_messages_leave_nothing() {
    let e2ee = e2ee();
    let (ann, bob) = (phone(&e2ee, "ann", "A"), phone(&e2ee, "bob", "B"));
    let before = e2ee.store.position();
    let long = "x".repeat(70_000);
    assert_eq!(errcode(send(&e2ee, &ann, "1", json!({ "@bob:test": { "B": long } })).await), "M_TOO_LARGE");
    assert_eq!(e2ee.store.position(), before);
    (0..80).for_each(|at| drop(phone(&e2ee, "bob", &format!("B{at}"))));
    let long = "x".repeat(60_000);
    let before = e2ee.store.position();
    assert_eq!(errcode(send(&e2ee, &ann, "1", json!({ "@bob:test": { "*": long } })).await), "M_TOO_LARGE");
    assert_eq!((e2ee.store.position(), inbox_of(&e2ee, &bob)), (before, String::new()));
}

#[derive(Debug, Clone)]
enum Step {
    Upload(Vec<u8>),
    Claim,
    /// A claim whose client is gone before the answer.
    LostClaim,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        proptest::collection::vec(0..60u8, 1..6).prop_map(Step::Upload),
        Just(Step::Claim),
        Just(Step::Claim),
        Just(Step::LostClaim),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Uploads repeat keys at will, claims run against each other, some answers are lost: no key is
    /// answered twice, and every key was answered, is still there, or went with a lost answer.
    #[test]
    fn no_key_is_issued_twice_and_none_is_lost(people in proptest::collection::vec(proptest::collection::vec(step(), 1..25), 2..6)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
        let e2ee = e2ee();
        let ann = phone(&e2ee, "ann", "A");
        let (issued, uploaded, lost) = runtime.block_on(async {
            ann.upload(&e2ee, &[]).await.unwrap();
            let tasks: Vec<_> = people.into_iter().map(|steps| {
                let (e2ee, ann) = (e2ee.clone(), ann.clone());
                tokio::spawn(async move { act(&e2ee, &ann, steps).await })
            }).collect();
            let (mut issued, mut uploaded, mut lost) = (Vec::new(), BTreeSet::new(), 0);
            for task in tasks {
                let (claimed, added, without_answer) = task.await.unwrap();
                issued.extend(claimed);
                uploaded.extend(added);
                lost += without_answer;
            }
            (issued, uploaded, lost)
        });
        let once: BTreeSet<_> = issued.iter().cloned().collect();
        prop_assert_eq!(once.len(), issued.len(), "a key was issued twice: {:?}", issued);
        let mut left = BTreeSet::new();
        runtime.block_on(async {
            loop {
                match ann.claim(&e2ee).await {
                    key if key.is_empty() => break,
                    key => assert!(left.insert(key)),
                }
            }
        });
        prop_assert!(left.is_disjoint(&once));
        let known: BTreeSet<_> = left.union(&once).cloned().collect();
        prop_assert!(known.is_subset(&uploaded));
        prop_assert!(uploaded.len() - known.len() <= lost, "{} keys are lost", uploaded.len() - known.len());
    }
}

async fn act(e2ee: &E2ee, ann: &Phone, steps: Vec<Step>) -> (Vec<String>, Vec<String>, usize) {
    let (mut issued, mut uploaded, mut lost) = (Vec::new(), Vec::new(), 0);
    for step in steps {
        match step {
            Step::Upload(ids) => {
                let ids: Vec<String> = ids.iter().map(u8::to_string).collect();
                ann.upload(e2ee, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
                uploaded.extend(ids);
            }
            Step::Claim => issued.extend(Some(ann.claim(e2ee).await).filter(|key| !key.is_empty())),
            Step::LostClaim => {
                lost += 1;
                drop(one_time_keys::claim(e2ee, ann.wanted()).now_or_never());
            }
        }
        tokio::task::yield_now().await;
    }
    (issued, uploaded, lost)
}

/// The three cross-signing keys of somebody.
struct Cross {
    master: KeyPair,
    self_signing: KeyPair,
    user_signing: KeyPair,
}

impl Cross {
    fn new(name: &str) -> Self {
        let key = |kind: &str| {
            let secret = seed(&format!("{name} {kind}"));
            let public = KeyPair::from_seed(&secret, "").public().to_base64();
            KeyPair::from_seed(&secret, public)
        };
        Self { master: key("master"), self_signing: key("self"), user_signing: key("user") }
    }

    fn key(&self, user: &UserId, usage: &str, key: &KeyPair) -> Object {
        let mut object = to_object(json!({ "user_id": user, "usage": [usage], "keys": { key.id(): key.version() } }));
        if usage != "master" {
            sign_json(&mut object, user.as_str(), &self.master);
        }
        object
    }

    fn upload(&self, user: &UserId) -> cross_signing::Upload {
        cross_signing::Upload {
            master: Some(self.key(user, "master", &self.master)),
            self_signing: Some(self.key(user, "self_signing", &self.self_signing)),
            user_signing: Some(self.key(user, "user_signing", &self.user_signing)),
        }
    }
}

/// What `asker` sees of a user's keys: one line per key with who has signed it.
fn seen(e2ee: &E2ee, asker: &Phone, of: &Phone) -> String {
    let wanted = [(of.user.clone(), vec![])].into();
    let keys = query::query(e2ee, Some((&asker.user, asker.number)), wanted).unwrap();
    let mut lines = Vec::new();
    let mut line = |what: &str, text: &String| {
        let object = canonical::parse_object(text.as_bytes(), canonical::Numbers::Strict).unwrap();
        let signatures = object["signatures"].as_object().unwrap();
        let signers = signatures.iter().map(|(user, keys)| {
            format!("{}:{}", user.trim_end_matches(":test"), keys.as_object().map_or(0, |keys| keys.len()))
        });
        lines.push(format!("{what} {}", signers.collect::<Vec<_>>().join(" ")).trim_end().to_owned());
    };
    keys.devices.values().flatten().for_each(|(id, text)| line(id.as_str(), text));
    keys.master.values().for_each(|text| line("master", text));
    keys.self_signing.values().for_each(|text| line("self-signing", text));
    keys.user_signing.values().for_each(|text| line("user-signing", text));
    lines.join("\n")
}

async fn cross_sign(e2ee: &E2ee, phone: &Phone, upload: &cross_signing::Upload) -> Result<cross_signing::Need> {
    let need = cross_signing::check(e2ee, phone.device(), upload)?;
    cross_signing::upload(e2ee, phone.device(), upload, need).await?;
    Ok(need)
}

#[tokio::test]
async fn the_first_keys_need_no_proof_and_others_do() {
    use cross_signing::Need;
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    let first = Cross::new("first");
    assert_eq!(cross_sign(&e2ee, &ann, &first.upload(&ann.user)).await.unwrap(), Need::Nothing);
    let before = e2ee.store.position();
    assert_eq!(cross_sign(&e2ee, &ann, &first.upload(&ann.user)).await.unwrap(), Need::Nothing);
    assert_eq!(e2ee.store.position(), before);

    let second = Cross::new("second");
    let other = cross_signing::Upload { master: None, ..first.upload(&ann.user) };
    assert_eq!(cross_sign(&e2ee, &ann, &other).await.unwrap(), Need::Nothing);
    let other = second.upload(&ann.user);
    assert_eq!(cross_signing::check(&e2ee, ann.device(), &other).unwrap(), Need::Authentication);
    assert_eq!(errcode(cross_signing::upload(&e2ee, ann.device(), &other, Need::Nothing).await), "M_FORBIDDEN");
    assert_eq!(cross_sign(&e2ee, &ann, &other).await.unwrap(), Need::Authentication);
}

#[tokio::test]
async fn forged_cross_signing_keys_leave_nothing() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    ann.upload(&e2ee, &[]).await.unwrap();
    let (cross, eve) = (Cross::new("ann"), Cross::new("eve"));
    let before = e2ee.store.position();
    let check = async |change: &dyn Fn(&mut cross_signing::Upload), expected: &str| {
        let mut upload = cross.upload(&ann.user);
        change(&mut upload);
        assert_eq!(errcode(cross_sign(&e2ee, &ann, &upload).await), expected);
    };
    check(&|upload| upload.master = None, "M_MISSING_PARAM").await;
    check(&|upload| *upload = Default::default(), "M_MISSING_PARAM").await;
    check(&|upload| upload.self_signing = eve.upload(&ann.user).self_signing, "M_INVALID_SIGNATURE").await;
    check(&|upload| upload.master = eve.upload(&ann.user).master, "M_INVALID_SIGNATURE").await;
    check(&|upload| upload.user_signing = upload.self_signing.clone(), "M_INVALID_PARAM").await;
    let bob = UserId::parse("@bob:test").unwrap();
    check(&|upload| *upload = cross.upload(&bob), "M_INVALID_PARAM").await;
    check(
        &|upload| {
            let forged = KeyPair::from_seed(&[3; 32], "A");
            sign_json(upload.master.as_mut().unwrap(), ann.user.as_str(), &forged);
        },
        "M_INVALID_SIGNATURE",
    )
    .await;
    assert_eq!(e2ee.store.position(), before);
    phone(&e2ee, "ann", cross.master.version());
    check(&|_| {}, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn a_device_may_not_be_called_like_a_cross_signing_key() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A");
    let cross = Cross::new("ann");
    cross_sign(&e2ee, &ann, &cross.upload(&ann.user)).await.unwrap();
    let twin = phone(&e2ee, "ann", cross.self_signing.version());
    assert_eq!(errcode(twin.upload(&e2ee, &[]).await), "M_FORBIDDEN");
}

#[tokio::test]
async fn signatures_are_seen_by_those_who_may_see_them() {
    let e2ee = e2ee();
    let (ann, bob, eve) = (phone(&e2ee, "ann", "A"), phone(&e2ee, "bob", "B"), phone(&e2ee, "eve", "E"));
    let (anns, bobs) = (Cross::new("ann"), Cross::new("bob"));
    for (phone, cross) in [(&ann, &anns), (&bob, &bobs)] {
        phone.upload(&e2ee, &[]).await.unwrap();
        cross_sign(&e2ee, phone, &cross.upload(&phone.user)).await.unwrap();
    }
    let mut own_device = ann.identity();
    sign_json(&mut own_device, ann.user.as_str(), &anns.self_signing);
    let mut own_master = anns.key(&ann.user, "master", &anns.master);
    sign_json(&mut own_master, ann.user.as_str(), &ann.key);
    let mut others = bobs.key(&bob.user, "master", &bobs.master);
    sign_json(&mut others, ann.user.as_str(), &anns.user_signing);
    let upload = signatures::Upload::from([
        (
            ann.user.clone(),
            [("A".to_owned(), Ok(own_device)), (anns.master.version().to_owned(), Ok(own_master))].into(),
        ),
        (bob.user.clone(), [(bobs.master.version().to_owned(), Ok(others))].into()),
    ]);
    let since = e2ee.store.position();
    let failures = signatures::upload(&e2ee, ann.device(), upload).await.unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    expect![[r#"
        A @ann:2
        master @ann:1
        self-signing @ann:1
        user-signing @ann:1"#]]
    .assert_eq(&seen(&e2ee, &ann, &ann));
    expect![[r#"
        A @ann:2
        master @ann:1
        self-signing @ann:1"#]]
    .assert_eq(&seen(&e2ee, &eve, &ann));
    expect![[r#"
        B @bob:1
        master @ann:1
        self-signing @bob:1"#]]
    .assert_eq(&seen(&e2ee, &ann, &bob));
    expect![[r#"
        B @bob:1
        master
        self-signing @bob:1
        user-signing @bob:1"#]]
    .assert_eq(&seen(&e2ee, &bob, &bob));
    let upto = e2ee.store.position();
    assert_eq!(device_lists::between(&e2ee.store, bob.number, since, upto).unwrap(), Default::default());

    // A new master key begins without what was said of the old one, and a device takes its word with it.
    cross_sign(&e2ee, &bob, &Cross::new("bob again").upload(&bob.user)).await.unwrap();
    assert!(seen(&e2ee, &ann, &bob).contains("master\n"), "{}", seen(&e2ee, &ann, &bob));
    remove(&e2ee, &ann);
    assert!(seen(&e2ee, &eve, &ann).starts_with("master\n"), "{}", seen(&e2ee, &eve, &ann));
}

#[tokio::test]
async fn forged_signatures_fail_one_by_one() {
    let e2ee = e2ee();
    let (ann, bob) = (phone(&e2ee, "ann", "A"), phone(&e2ee, "bob", "B"));
    let (anns, bobs) = (Cross::new("ann"), Cross::new("bob"));
    for (phone, cross) in [(&ann, &anns), (&bob, &bobs)] {
        phone.upload(&e2ee, &[]).await.unwrap();
        cross_sign(&e2ee, phone, &cross.upload(&phone.user)).await.unwrap();
    }
    let signed = |mut object: Object, key: &KeyPair| {
        object.remove("signatures");
        sign_json(&mut object, ann.user.as_str(), key);
        Ok(object)
    };
    let bobs_master = || bobs.key(&bob.user, "master", &bobs.master);
    let mut altered = ann.identity();
    altered.insert("algorithms".to_owned(), canonical::Value::Array(vec![]));
    let mut damaged = signed(ann.identity(), &anns.self_signing).unwrap();
    damaged.insert(
        "signatures".to_owned(),
        canonical::to_value(&json!({ "@ann:test": { anns.self_signing.id(): "AAAA" } })).unwrap(),
    );
    let masters = |object: Result<Object>| BTreeMap::from([(bobs.master.version().to_owned(), object)]);
    let before = e2ee.store.position();
    for (what, user, keys, expected) in [
        (
            "the user-signing key does not sign devices",
            &ann,
            [("A".to_owned(), signed(ann.identity(), &anns.user_signing))].into(),
            "M_INVALID_SIGNATURE",
        ),
        (
            "an altered device",
            &ann,
            [("A".to_owned(), signed(altered, &anns.self_signing))].into(),
            "M_INVALID_SIGNATURE",
        ),
        ("a damaged signature", &ann, [("A".to_owned(), Ok(damaged))].into(), "M_INVALID_SIGNATURE"),
        ("no such device", &ann, [("X".to_owned(), signed(ann.identity(), &anns.self_signing))].into(), "M_NOT_FOUND"),
        (
            "somebody else's device",
            &bob,
            [("B".to_owned(), signed(bob.identity(), &anns.user_signing))].into(),
            "M_NOT_FOUND",
        ),
        (
            "the self-signing key does not sign people",
            &bob,
            masters(signed(bobs_master(), &anns.self_signing)),
            "M_INVALID_SIGNATURE",
        ),
        ("in the name of another", &bob, masters(signed(bobs_master(), &bobs.user_signing)), "M_INVALID_SIGNATURE"),
    ] {
        let upload = signatures::Upload::from([(user.user.clone(), keys)]);
        let failures = signatures::upload(&e2ee, ann.device(), upload).await.unwrap();
        let codes: Vec<_> = failures[&user.user].values().map(|error| error.errcode.as_ref()).collect();
        assert_eq!(codes, [expected], "{what}");
    }
    assert_eq!(e2ee.store.position(), before);
}

fn session(room: &str, session: &str, verified: bool, index: u64, forwarded: u64) -> backup::SessionKey {
    let json = json!({
        "first_message_index": index, "forwarded_count": forwarded, "is_verified": verified, "session_data": {},
    });
    backup::SessionKey { room: room.to_owned(), session: session.to_owned(), json: json.to_string() }
}

#[tokio::test]
async fn the_better_key_stays_in_a_backup() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A").number;
    assert_eq!(backup::create(&e2ee, ann, "x".to_owned(), "{}".to_owned()).await.unwrap(), 1);
    for (verified, index, forwarded, etag) in
        [(false, 5, 5, 1), (false, 6, 0, 1), (false, 5, 4, 2), (false, 4, 9, 3), (true, 9, 9, 4), (false, 0, 0, 4)]
    {
        let key = session("!r:test", "s", verified, index, forwarded);
        let contents = backup::put_keys(&e2ee, ann, "1", vec![key]).await.unwrap();
        assert_eq!((contents.count, contents.etag), (1, etag), "{verified} {index} {forwarded}");
    }
    let kept = backup::key(&e2ee.store, ann, "1", "!r:test", "s").unwrap();
    assert!(kept.get().contains(r#""is_verified":true"#));
}

#[tokio::test]
async fn keys_go_into_the_newest_backup_only() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A").number;
    let keys = || vec![session("!a:test", "s", true, 0, 0), session("!b:test", "s", true, 0, 0)];
    let put = async |version: &str| errcode(backup::put_keys(&e2ee, ann, version, keys()).await);
    assert_eq!(put("1").await, "M_NOT_FOUND");
    for _ in 0..2 {
        backup::create(&e2ee, ann, "x".to_owned(), "{}".to_owned()).await.unwrap();
    }
    let error = backup::put_keys(&e2ee, ann, "1", keys()).await.unwrap_err();
    assert_eq!((error.errcode.as_ref(), &error.fields["current_version"]), ("M_WRONG_ROOM_KEYS_VERSION", &json!("2")));
    assert_eq!([put("2").await, put("3").await, put("x").await], ["ok", "M_NOT_FOUND", "M_NOT_FOUND"]);

    backup::delete(&e2ee, ann, "2").await.unwrap();
    backup::delete(&e2ee, ann, "2").await.unwrap();
    assert_eq!(errcode(backup::delete(&e2ee, ann, "7").await), "M_NOT_FOUND");
    assert_eq!(e2ee.store.scan(BACKUP_KEYS, &ann).count(), 0);
    assert_eq!(put("2").await, "M_NOT_FOUND");
    assert_eq!(backup::find(&e2ee.store, ann, None).unwrap().version, 1);
    assert_eq!(backup::create(&e2ee, ann, "x".to_owned(), "{}".to_owned()).await.unwrap(), 3);
}

#[tokio::test]
async fn a_backup_is_read_and_deleted_in_parts() {
    let e2ee = e2ee();
    let ann = phone(&e2ee, "ann", "A").number;
    backup::create(&e2ee, ann, "x".to_owned(), "{}".to_owned()).await.unwrap();
    let all: Vec<_> = ["!a:test", "!b:test", "!bb:test"]
        .iter()
        .flat_map(|room| (0..5).map(|at| session(room, &format!("s{at}"), true, 0, 0)))
        .collect();
    backup::put_keys(&e2ee, ann, "1", all).await.unwrap();
    let read = |room: Option<&str>| {
        let mut walk = backup::walk(&e2ee.store, ann, "1", room.map(str::to_owned)).unwrap();
        let pages = std::iter::from_fn(|| Some(walk.next(&e2ee.store, 2).unwrap()).filter(|page| !page.is_empty()));
        pages.flatten().map(|key| format!("{}/{}", key.room, key.session)).collect::<BTreeSet<_>>().len()
    };
    assert_eq!([read(None), read(Some("!b:test")), read(Some("!c:test"))], [15, 5, 0]);
    let delete = async |part| backup::delete_keys(&e2ee, ann, "1", part).await.unwrap().count;
    assert_eq!(delete(backup::Part::Session("!a:test".to_owned(), "s1".to_owned())).await, 14);
    assert_eq!(delete(backup::Part::Session("!a:test".to_owned(), "s1".to_owned())).await, 14);
    assert_eq!(delete(backup::Part::Room("!b:test".to_owned())).await, 9);
    assert_eq!(read(None), 9);
    assert_eq!(delete(backup::Part::All).await, 0);
}
