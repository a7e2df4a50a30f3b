//! Messages of D-Bus as bytes (D-Bus Specification, "Message Protocol"). The module reads and writes nothing.

use serde::de::DeserializeOwned;
use zvariant::serialized::{Context, Data};
use zvariant::{Endian, NATIVE_ENDIAN, Type};

use refresh_system::error::{Context as _, Failure, Outcome};

/// How long the fixed part of a header is, with the length of its fields.
const FIXED: usize = 16;
/// How long a message may be.
const LIMIT: usize = 128 << 20;
/// The flag of a call that gets no reply.
const NO_REPLY: u8 = 1;

// The fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;
const UNIX_FDS: u8 = 9;

/// A method to be called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

impl<'a> Call<'a> {
    pub(super) fn new(destination: &'a str, path: &'a str, interface: &'a str, member: &'a str) -> Self {
        Self { destination, path, interface, member }
    }
}

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The result of a call.
    Return,
    /// The refusal of a call.
    Error,
    /// Something that happened.
    Signal,
    /// A call, or a kind of a later version of the protocol.
    Other,
}

/// A received message. Values without a field in its header are empty.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The number of the call that it answers.
    pub(super) reply_to: Option<u32>,
    pub(super) member: String,
    pub(super) error_name: String,
    /// The connection that it comes from, as the bus names it.
    pub(super) sender: String,
    signature: String,
    endian: Endian,
    bytes: Vec<u8>,
    body_at: usize,
}

impl Message {
    /// Reads a complete message.
    ///
    /// # Errors
    /// The bytes are not a message.
    pub(super) fn decode(bytes: Vec<u8>) -> Outcome<Self> {
        let endian = endian(&bytes).ok_or_else(broken)?;
        let kind = match bytes.get(1) {
            Some(2) => Kind::Return,
            Some(3) => Kind::Error,
            Some(4) => Kind::Signal,
            _ => Kind::Other,
        };
        let fields_end = FIXED + number(&bytes, 12, endian).ok_or_else(broken)?;
        let mut message = Self {
            kind,
            reply_to: None,
            member: String::new(),
            error_name: String::new(),
            sender: String::new(),
            signature: String::new(),
            endian,
            body_at: fields_end.next_multiple_of(8),
            bytes: Vec::new(),
        };
        let mut at = FIXED;
        while at < fields_end {
            at = message.read_field(&bytes, at).ok_or_else(broken)?.next_multiple_of(8);
        }
        if message.body_at > bytes.len() {
            return Err(broken());
        }
        message.bytes = bytes;
        Ok(message)
    }

    /// Reads the field of the header at `at`; returns its end, `None` if it is not a field.
    fn read_field(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let (code, value) = (*bytes.get(at)?, at + 4);
        let text = |start: usize, length: usize| {
            let text = std::str::from_utf8(bytes.get(start..start.checked_add(length)?)?).ok()?;
            Some((text.to_owned(), start + length + 1))
        };
        let (text, end) = match bytes.get(at + 1..value)? {
            [1, b's' | b'o', 0] => text(value + 4, number(bytes, value, self.endian)?)?,
            [1, b'g', 0] => text(value + 1, usize::from(*bytes.get(value)?))?,
            [1, b'u', 0] => {
                let number = u32::try_from(number(bytes, value, self.endian)?).ok()?;
                if code == REPLY_SERIAL {
                    self.reply_to = Some(number);
                }
                return Some(value + 4);
            }
            _ => return None,
        };
        match code {
            MEMBER => self.member = text,
            ERROR_NAME => self.error_name = text,
            SENDER => self.sender = text,
            SIGNATURE => self.signature = text,
            _ => {}
        }
        Some(end)
    }

    /// Returns whether this is the reply to the call `serial`. A signal may carry such a number as well.
    pub(super) fn is_reply_to(&self, serial: u32) -> bool {
        matches!(self.kind, Kind::Return | Kind::Error) && self.reply_to == Some(serial)
    }

    /// Returns the content of the message.
    ///
    /// # Errors
    /// It is of another type.
    pub(super) fn body<T: DeserializeOwned + Type>(&self) -> Outcome<T> {
        let expected = T::SIGNATURE.to_string_no_parens();
        if expected != self.signature {
            let found = &self.signature;
            return Err(Failure::new(format!("systemd answers with {found:?} instead of {expected:?}")));
        }
        let data = Data::new(&self.bytes[self.body_at..], Context::new_dbus(self.endian, 0));
        let (value, _) = data.deserialize().context(|| "systemd's answer cannot be read".to_owned())?;
        Ok(value)
    }
}

/// Returns how long the message is that begins with `bytes`; `None` if that is not known yet.
///
/// # Errors
/// The bytes are not a message, or the message is longer than the protocol allows.
pub(super) fn length(bytes: &[u8]) -> Outcome<Option<usize>> {
    if bytes.len() < FIXED {
        return Ok(None);
    }
    let endian = endian(bytes).ok_or_else(broken)?;
    let part = |at: usize| number(bytes, at, endian).filter(|length| *length <= LIMIT).ok_or_else(broken);
    Ok(Some((FIXED + part(12)?).next_multiple_of(8) + part(4)?))
}

/// Returns the bytes of a call.
///
/// # Errors
/// It is longer than the protocol allows.
pub(super) fn encode(
    call: &Call<'_>,
    serial: u32,
    wants_reply: bool,
    signature: &str,
    body: &Data<'_, '_>,
) -> Outcome<Vec<u8>> {
    let flags = if wants_reply { 0 } else { NO_REPLY };
    let order = if NATIVE_ENDIAN == Endian::Little { b'l' } else { b'B' };
    let mut bytes = vec![order, 1, flags, 1];
    bytes.extend(length_of(body.len())?.to_ne_bytes());
    bytes.extend(serial.to_ne_bytes());
    bytes.extend([0; 4]);
    add_text(&mut bytes, PATH, b'o', call.path)?;
    add_text(&mut bytes, INTERFACE, b's', call.interface)?;
    add_text(&mut bytes, MEMBER, b's', call.member)?;
    add_text(&mut bytes, DESTINATION, b's', call.destination)?;
    if !signature.is_empty() {
        add_field(&mut bytes, SIGNATURE, b'g');
        bytes.push(u8::try_from(signature.len()).context(too_long)?);
        bytes.extend(signature.bytes().chain([0]));
    }
    if !body.fds().is_empty() {
        add_field(&mut bytes, UNIX_FDS, b'u');
        bytes.extend(length_of(body.fds().len())?.to_ne_bytes());
    }
    let fields = length_of(bytes.len() - FIXED)?;
    bytes[12..FIXED].copy_from_slice(&fields.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(body);
    Ok(bytes)
}

fn add_text(bytes: &mut Vec<u8>, code: u8, kind: u8, text: &str) -> Outcome<()> {
    add_field(bytes, code, kind);
    bytes.extend(length_of(text.len())?.to_ne_bytes());
    bytes.extend(text.bytes().chain([0]));
    Ok(())
}

/// Begins a field: its code and the signature of its value.
fn add_field(bytes: &mut Vec<u8>, code: u8, kind: u8) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend([code, 1, kind, 0]);
}

fn length_of(length: usize) -> Outcome<u32> {
    u32::try_from(length).ok().filter(|_| length <= LIMIT).ok_or_else(|| Failure::new(too_long()))
}

fn too_long() -> String {
    "it is too long for D-Bus".to_owned()
}

fn broken() -> Failure {
    Failure::new("the system bus sends an invalid D-Bus message")
}

fn endian(bytes: &[u8]) -> Option<Endian> {
    match bytes.first()? {
        b'l' => Some(Endian::Little),
        b'B' => Some(Endian::Big),
        _ => None,
    }
}

/// Reads a number of 32 bits.
fn number(bytes: &[u8], at: usize, endian: Endian) -> Option<usize> {
    let bytes: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    let number = match endian {
        Endian::Little => u32::from_le_bytes(bytes),
        Endian::Big => u32::from_be_bytes(bytes),
    };
    usize::try_from(number).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a message in big-endian byte order: fields as code, type and bytes of the value.
    pub(in crate::systemd) fn received(kind: u8, fields: &[(u8, u8, &[u8])], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![b'B', kind, 0, 1];
        bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(7_u32.to_be_bytes());
        bytes.extend([0; 4]);
        for (code, of, value) in fields {
            add_field(&mut bytes, *code, *of);
            bytes.extend_from_slice(value);
        }
        let length = u32::try_from(bytes.len() - FIXED).unwrap();
        bytes[12..FIXED].copy_from_slice(&length.to_be_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_call_is_read_back_with_its_member_and_its_body() {
        let call = Call::new("org.x", "/org/x", "org.x.I", "Do");
        let body = ("name", vec![("key", 7_u32)]);
        let data = zvariant::to_bytes(Context::new_dbus(NATIVE_ENDIAN, 0), &body).unwrap();
        let bytes = encode(&call, 3, true, "sa(su)", &data).unwrap();
        assert_eq!(length(&bytes).unwrap(), Some(bytes.len()));
        assert_eq!(length(&bytes[..FIXED - 1]).unwrap(), None);
        let message = Message::decode(bytes).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (Kind::Other, "Do"));
        let (name, list): (String, Vec<(String, u32)>) = message.body().unwrap();
        assert_eq!((name.as_str(), list), ("name", vec![("key".to_owned(), 7)]));
    }

    #[test]
    fn a_refusal_names_the_call_the_error_and_its_text_in_either_byte_order() {
        let name = b"\0\0\0\x05a.b.c\0";
        let fields: [(u8, u8, &[u8]); 4] = [
            (REPLY_SERIAL, b'u', &[0, 0, 1, 2]),
            (ERROR_NAME, b's', name),
            (SIGNATURE, b'g', b"\x01s\0"),
            (99, b's', name),
        ];
        let bytes = received(3, &fields, b"\0\0\0\x02no\0");
        assert_eq!(length(&bytes).unwrap(), Some(bytes.len()));
        let message = Message::decode(bytes).unwrap();
        assert_eq!(
            (message.kind, message.reply_to, message.error_name.as_str()),
            (Kind::Error, Some(258), "a.b.c")
        );
        assert_eq!(message.body::<String>().unwrap(), "no");
        assert!(message.body::<u32>().is_err(), "another type");
    }

    #[test]
    fn a_message_without_a_body_has_no_value() {
        let message = Message::decode(received(2, &[(REPLY_SERIAL, b'u', &[0, 0, 0, 1])], b"")).unwrap();
        message.body::<()>().unwrap();
        assert!(message.body::<String>().is_err());
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        assert!(length(&[b'x'; FIXED]).is_err());
        let mut long = received(2, &[], b"");
        long[4..8].copy_from_slice(&[0xff; 4]);
        assert!(length(&long).is_err());
        let whole = received(4, &[(MEMBER, b's', b"\0\0\0\x03abc\0")], b"");
        for at in 12..whole.len() {
            let mut torn = whole.clone();
            torn[at] = 0xfe;
            // It may still be a message, with another name in it; it must not be read beyond its end.
            let _ = Message::decode(torn);
        }
    }
}
