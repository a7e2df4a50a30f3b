//! Tests of the connection against a bus at the other end of a socket pair. They start threads and touch no real bus.

use super::*;
use crate::systemd::message::tests::received;

const PEER: &str = "org.freedesktop.systemd1";
const SYSTEMD: &[u8] = b"\0\0\0\x04:1.0\0";
const OTHER: &[u8] = b"\0\0\0\x04:1.9\0";
const JOB: &str = "/org/freedesktop/systemd1/job/7";

/// A bus at the other end of a socket: it answers each call with the result of `answer` for its member and number.
fn with_bus(answer: impl Fn(&str, u32) -> Vec<u8> + Send + 'static) -> Connection {
    let (near, mut far) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        let mut is_accepted = false;
        while let Ok(count @ 1..) = far.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
            if !is_accepted {
                let end = bytes.windows(7).position(|part| part == b"BEGIN\r\n").unwrap() + 7;
                assert!(bytes.starts_with(b"\0AUTH EXTERNAL "));
                bytes.drain(..end);
                far.write_all(b"OK 0123\r\nAGREE_UNIX_FD\r\n").unwrap();
                is_accepted = true;
            }
            while let Some(length) = message::length(&bytes).unwrap().filter(|it| *it <= bytes.len()) {
                let one: Vec<u8> = bytes.drain(..length).collect();
                let serial = u32::from_ne_bytes(one[8..12].try_into().unwrap());
                let member = Message::decode(one).unwrap().member;
                let response = match member.as_str() {
                    "Hello" => received(
                        2,
                        &[(5, b'u', &serial.to_be_bytes()), (8, b'g', b"\x01s\0")],
                        b"\0\0\0\x01x\0",
                    ),
                    "AddMatch" => received(2, &[(5, b'u', &serial.to_be_bytes())], b""),
                    other => answer(other, serial),
                };
                far.write_all(&response).unwrap();
            }
        }
    });
    Connection::begin(near, PEER).unwrap()
}

fn call(member: &str) -> Call<'_> {
    Call::new(PEER, "/x", "x.y", member)
}

fn job_removed(sender: &[u8], result: &str) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 7];
    for text in [JOB, "x.service", result] {
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        body.extend(text.bytes().chain([0]));
    }
    let member = b"\0\0\0\x0aJobRemoved\0";
    received(4, &[(3, b's', member), (7, b's', sender), (8, b'g', b"\x04uoss\0")], &body)
}

#[test]
fn a_call_returns_its_own_reply_and_not_a_late_one() {
    let connection = with_bus(|_, serial| {
        let reply = |to: u32, value: u8| {
            received(2, &[(5, b'u', &to.to_be_bytes()), (8, b'g', b"\x01u\0")], &[0, 0, 0, value])
        };
        [reply(serial - 1, 1), reply(serial, 2)].concat()
    });
    for _ in 0..3 {
        assert_eq!(connection.call::<_, u32>(&call("Get"), &("a", 1_u32)).unwrap(), 2);
    }
    assert!(matches!(connection.call::<_, String>(&call("Get"), &()), Err(CallError::Failed(_))));
    assert!(!connection.is_lost());
}

#[test]
fn a_signal_that_carries_the_number_of_a_call_is_no_reply() {
    let connection = with_bus(|_, serial| {
        let fields: [(u8, u8, &[u8]); 2] = [(5, b'u', &serial.to_be_bytes()), (8, b'g', b"\x01u\0")];
        [received(4, &fields, &[0, 0, 0, 1]), received(2, &fields, &[0, 0, 0, 2])].concat()
    });
    assert_eq!(connection.call::<_, u32>(&call("Get"), &()).unwrap(), 2);
}

#[test]
fn a_message_with_an_unknown_field_is_left_out() {
    let connection = with_bus(|_, serial| {
        let reply = received(2, &[(5, b'u', &serial.to_be_bytes()), (8, b'g', b"\x01u\0")], &[0, 0, 0, 2]);
        [received(4, &[(17, b'y', b"\x01")], b""), reply].concat()
    });
    assert_eq!(connection.call::<_, u32>(&call("Get"), &()).unwrap(), 2);
}

#[test]
fn the_end_of_a_job_is_accepted_from_a_new_connection() {
    let connection = with_bus(|member, serial| {
        let sender = if member == "StartUnit" { SYSTEMD } else { OTHER };
        let reply = received(2, &[(5, b'u', &serial.to_be_bytes()), (7, b's', sender)], b"");
        let end = if member == "StartUnit" { job_removed(OTHER, "failed") } else { Vec::new() };
        [reply, end].concat()
    });
    let job = OwnedObjectPath::try_from(JOB).unwrap();
    connection.listen("rule").unwrap();
    connection.call::<_, ()>(&call("StartUnit"), &()).unwrap();
    let soon = clock::monotonic() + Duration::from_millis(100);
    assert_eq!(connection.await_job(&job, soon).unwrap(), None, "of a connection that is not systemd's");
    connection.call::<_, ()>(&call("Get"), &()).unwrap();
    assert_eq!(connection.await_job(&job, clock::monotonic()).unwrap().as_deref(), Some("failed"));
}

#[test]
fn a_refusal_has_its_name_and_the_connection_goes_on() {
    let connection = with_bus(|_, serial| {
        let fields: [(u8, u8, &[u8]); 3] =
            [(5, b'u', &serial.to_be_bytes()), (4, b's', b"\0\0\0\x03a.b\0"), (8, b'g', b"\x01s\0")];
        received(3, &fields, b"\0\0\0\x02no\0")
    });
    for _ in 0..2 {
        match connection.call::<_, ()>(&call("Do"), &()) {
            Err(CallError::Refused { name, text }) => {
                assert_eq!((name.as_str(), text.as_deref()), ("a.b", Some("no")));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_end_of_a_job_is_accepted_while_it_is_awaited() {
    let connection = with_bus(|_, serial| {
        let reply = received(2, &[(5, b'u', &serial.to_be_bytes()), (7, b's', SYSTEMD)], b"");
        [reply, job_removed(OTHER, "done"), job_removed(SYSTEMD, "failed")].concat()
    });
    let job = OwnedObjectPath::try_from(JOB).unwrap();
    let soon = || clock::monotonic() + Duration::from_millis(200);
    connection.call::<_, ()>(&call("StartUnit"), &()).unwrap();
    assert_eq!(connection.await_job(&job, soon()).unwrap(), None, "before it listens");
    connection.listen("rule").unwrap();
    connection.call::<_, ()>(&call("StartUnit"), &()).unwrap();
    assert_eq!(connection.await_job(&job, soon()).unwrap().as_deref(), Some("failed"));
    assert_eq!(connection.await_job(&job, clock::monotonic()).unwrap(), None, "it is taken once");
    connection.ignore("rule");
}

#[test]
fn a_connection_that_the_bus_closes_is_lost() {
    let (near, far) = UnixStream::pair().unwrap();
    (&far).write_all(b"OK 0123\r\nAGREE_UNIX_FD\r\n").unwrap();
    drop(far);
    let failure = Connection::begin(near, PEER).unwrap_err();
    assert!(failure.chain().join(": ").contains("does not accept this process"), "{failure:?}");
    let (near, mut far) = UnixStream::pair().unwrap();
    far.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
    assert!(Connection::begin(near, PEER).is_err());
}
