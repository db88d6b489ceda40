//! How long keys and messages between devices take: a query for 1,000 users, a claim, one message to 1,000
//! devices, and a batch out of an inbox of 10,000.
//!
//! The rows are in memory, so this is the work itself and not the disk.

use criterion::{Criterion, criterion_group, criterion_main};
use ingle::{
    clock::Clock,
    e2ee::{
        Device, E2ee,
        inbox::{self, Messages},
        keys, one_time_keys, query,
    },
    protocol::{
        canonical::{self, Object},
        hash::base64,
        sign::{KeyPair, sign_json},
    },
    store::{
        Position, Store,
        schema::{UserNo, devices::DEVICES, numbers},
    },
};
use ruma::{OwnedUserId, UserId, to_device::DeviceIdOrAllDevices};
use serde_json::{Value, json, value::RawValue};
use tokio::runtime::Runtime;

/// How many one-time keys a device uploads at once, as clients do.
const KEYS: usize = 50;
/// The size of a message that carries a room key.
const MESSAGE: usize = 1_000;

fn e2ee() -> E2ee {
    let Ok(name) = "bench.test".try_into() else { unreachable!("a server name") };
    E2ee::new(name, Clock::system(), Store::in_memory())
}

fn person(e2ee: &E2ee, name: &str, devices: &[&str]) -> (OwnedUserId, UserNo) {
    let user = UserId::parse(format!("@{name}:bench.test")).expect("a user ID");
    let mut write = e2ee.store.write();
    let number = numbers::user(&mut write, &user).expect("a number");
    for device in devices {
        write.put(DEVICES, &(number, (*device).to_owned()), &Default::default());
    }
    drop(write.commit().expect("a commit"));
    (user, number)
}

fn signed(value: &Value, user: &UserId, key: &KeyPair) -> Object {
    let mut object = canonical::to_object(value).expect("an object");
    sign_json(&mut object, user.as_str(), key);
    object
}

fn upload(user: &UserId, device: &str, from: usize) -> keys::Upload {
    let key = KeyPair::from_seed(&[7; 32], device);
    let identity = json!({
        "user_id": user, "device_id": device, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("ed25519:{device}"): key.public().to_base64() },
    });
    let one_time = (from..from + KEYS).map(|at| {
        let object = json!({ "key": base64(&[at as u8; 32]) });
        (format!("signed_curve25519:{at}"), signed(&object, user, &key))
    });
    keys::Upload { identity: Some(signed(&identity, user, &key)), one_time: one_time.collect(), fallback: vec![] }
}

fn queries(c: &mut Criterion) {
    let (runtime, e2ee) = (Runtime::new().expect("a runtime"), e2ee());
    let mut wanted = query::Wanted::new();
    for at in 0..1_000 {
        let (user, number) = person(&e2ee, &format!("u{at}"), &["PHONE", "LAPTOP"]);
        for id in ["PHONE", "LAPTOP"] {
            let upload = keys::Upload { one_time: vec![], ..upload(&user, id, 0) };
            runtime.block_on(keys::upload(&e2ee, Device { user: &user, number, id }, upload)).expect("an upload");
        }
        wanted.insert(user, vec![]);
    }
    c.bench_function("query 1,000 users with two devices", |bench| {
        bench.iter(|| query::query(&e2ee, None, wanted.clone()).expect("keys"));
    });
}

fn claims(c: &mut Criterion) {
    let (runtime, e2ee) = (Runtime::new().expect("a runtime"), e2ee());
    let (user, number) = person(&e2ee, "ann", &["PHONE"]);
    let device = Device { user: &user, number, id: "PHONE" };
    let wanted: one_time_keys::Wanted = [(user.clone(), [("PHONE".into(), "signed_curve25519".into())].into())].into();
    let (mut uploaded, mut left) = (0, 0);
    c.bench_function("claim a key", |bench| {
        bench.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..rounds {
                if left == 0 {
                    let more = upload(&user, "PHONE", uploaded);
                    (uploaded, left) = (uploaded + KEYS, KEYS);
                    runtime.block_on(keys::upload(&e2ee, device, more)).expect("an upload");
                }
                let start = std::time::Instant::now();
                runtime.block_on(one_time_keys::claim(&e2ee, wanted.clone())).expect("a key");
                spent += start.elapsed();
                left -= 1;
            }
            spent
        });
    });
}

fn message() -> Box<RawValue> {
    serde_json::value::to_raw_value(&json!({ "ciphertext": "x".repeat(MESSAGE) })).expect("JSON")
}

fn messages(c: &mut Criterion) {
    let (runtime, e2ee) = (Runtime::new().expect("a runtime"), e2ee());
    let (ann, number) = person(&e2ee, "ann", &["PHONE"]);
    let sender = Device { user: &ann, number, id: "PHONE" };
    let mut all = Messages::new();
    for at in 0..1_000 {
        let (user, _) = person(&e2ee, &format!("u{at}"), &["PHONE"]);
        all.insert(user, [(DeviceIdOrAllDevices::DeviceId("PHONE".into()), message())].into());
    }
    let mut sent = 0u64;
    let mut send = |to: &Messages| {
        sent += 1;
        runtime.block_on(inbox::send(&e2ee, sender, "m.room.encrypted", &sent.to_string(), to)).expect("sent");
    };
    let mut group = c.benchmark_group("messages");
    group.sample_size(20);
    group.bench_function("send one to each of 1,000 devices", |bench| bench.iter(|| send(&all)));
    let (bob, number) = person(&e2ee, "bob", &["PHONE"]);
    let one: Messages = [(bob, [(DeviceIdOrAllDevices::AllDevices, message())].into())].into();
    (0..10_000).for_each(|_| send(&one));
    group.bench_function("read 100 out of 10,000 that wait", |bench| {
        let upto = e2ee.store.position();
        bench.iter(|| inbox::read(&e2ee.store, number, "PHONE", Position(0), upto, inbox::LIMIT).expect("a batch"));
    });
    group.finish();
}

criterion_group!(benches, queries, claims, messages);
criterion_main!(benches);
