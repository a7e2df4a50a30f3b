//! Reads a request as far as the server needs it: whether it is a request, whether the client wants a body, and in
//! which form.

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A page for browsers.
    Html,
    /// JSON for programs.
    Json,
}

/// A request, as far as the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// The form of the answer that the client wants.
    pub(super) form: Form,
    /// Whether the client wants no body (`HEAD`).
    pub(super) is_head: bool,
}

impl Request {
    /// The request of a client that did not complete one.
    pub(super) const UNKNOWN: Self = Self { form: Form::Html, is_head: false };
}

/// The data that was received so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// The beginning of a request.
    Part,
    /// The header of a request, complete.
    Complete(Request),
    /// Something else.
    Malformed,
}

/// Reads the data of a client. A body is not needed: every answer is the same.
pub(super) fn read(bytes: &[u8]) -> Received {
    // Some clients send an empty line before a request (RFC 9112, section 2.2).
    let begin = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
    let bytes = &bytes[begin..];
    match bytes.first() {
        None => return Received::Part,
        // This is TLS, or another protocol, which may never end a line.
        Some(first) if !first.is_ascii_alphabetic() => return Received::Malformed,
        Some(_) => {}
    }
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let Some(first) = lines.next() else { return Received::Part };
    let first = without_return(first);
    if !is_request_line(first) {
        return Received::Malformed;
    }
    let header: Vec<&[u8]> = lines.map(without_return).collect();
    let Some(end) = header.iter().position(|line| line.is_empty()) else { return Received::Part };
    let mut form = Form::Html;
    for line in &header[..end] {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Received::Malformed };
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Received::Malformed;
        }
        if name.eq_ignore_ascii_case(b"accept") && wants_json(&String::from_utf8_lossy(&value[1..])) {
            form = Form::Json;
        }
    }
    Received::Complete(Request { form, is_head: first.starts_with(b"HEAD ") })
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Reads a request line: method, target, version.
fn is_request_line(line: &[u8]) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words.as_slice() else { return false };
    method.iter().all(|byte| is_token(*byte))
        && !target.is_empty()
        && target.iter().all(|byte| byte.is_ascii_graphic() || *byte >= 0x80)
        && matches!(*version, b"HTTP/1.0" | b"HTTP/1.1")
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns `true` if an `Accept` header names JSON, and does not prefer HTML to it.
fn wants_json(accept: &str) -> bool {
    let quality = |wanted: &str| -> f32 {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next()?.eq_ignore_ascii_case(wanted);
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse);
            is_it.then_some(quality.unwrap_or(0.0))
        });
        ranges.fold(0.0, f32::max)
    };
    let json = quality("application/json");
    json > 0.0 && json >= quality("text/html")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &str) -> Form {
        match read(format!("GET / HTTP/1.1\r\nHost: x\r\naccept: {accept}\r\n\r\n").as_bytes()) {
            Received::Complete(request) => request.form,
            other => panic!("{accept}: {other:?}"),
        }
    }

    #[test]
    fn a_client_gets_json_if_it_accepts_json_and_does_not_prefer_a_page() {
        for accept in
            ["application/json", "Application/JSON; charset=utf-8", "text/html;q=0.1, application/json"]
        {
            assert_eq!(form(accept), Form::Json, "{accept}");
        }
        let of_browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for accept in
            [of_browser, "*/*", "", "application/json;q=0", "text/html, application/json;q=0.9", "x;q=,"]
        {
            assert_eq!(form(accept), Form::Html, "{accept}");
        }
    }

    #[test]
    fn a_request_is_complete_when_its_header_is() {
        let complete = b"\r\nHEAD /a?b=%20 HTTP/1.0\r\nHost: x\r\n\r\n";
        let expected = Request { form: Form::Html, is_head: true };
        assert_eq!(read(complete), Received::Complete(expected));
        for end in 0..complete.len() {
            assert_eq!(read(&complete[..end]), Received::Part, "{end}");
        }
        assert_eq!(read(b"GET / HTTP/1.1\n\n"), Received::Complete(Request { is_head: false, ..expected }));
    }

    #[test]
    fn malformed_requests_are_recognized_as_soon_as_possible() {
        for bytes in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"GET /\r\n",
            b"GET  / HTTP/1.1\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GET /\0 HTTP/1.1\r\n",
            b"G(T / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\n: empty\r\n\r\n",
        ] {
            assert_eq!(read(bytes), Received::Malformed, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_malformed_or_complete_request_stays_the_same_whatever_follows() {
        let pieces: [&[u8]; 12] = [
            b"GET ",
            b"HEAD ",
            b"/",
            b" HTTP/1.1",
            b"\r\n",
            b"\n",
            b"Accept: application/json",
            b"Host:",
            b" ",
            b"\0",
            b"\xff",
            b"\r",
        ];
        let mut state = 1_u32;
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            let mut before = Received::Part;
            for _ in 0..12 {
                // A linear congruential generator: the same requests each time.
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                bytes.extend_from_slice(pieces[(state >> 16) as usize % pieces.len()]);
                let now = read(&bytes);
                assert!(before == Received::Part || before == now, "{:?}", String::from_utf8_lossy(&bytes));
                before = now;
            }
        }
    }
}
