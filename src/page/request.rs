//! Reads a request as far as the server needs it: whether it is a request, whether the client wants a body, and in
//! which form.

use httparse::Status;

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

/// The largest number of headers of a request.
const HEADERS: usize = 128;

/// Reads the data of a client. A body is not needed: every answer is the same.
pub(super) fn read(bytes: &[u8]) -> Received {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Err(_) => Received::Malformed,
        Ok(Status::Partial) => Received::Part,
        Ok(Status::Complete(_)) => {
            let wants_json = request.headers.iter().any(|header| {
                header.name.eq_ignore_ascii_case("accept")
                    && wants_json(&String::from_utf8_lossy(header.value))
            });
            let form = if wants_json { Form::Json } else { Form::Html };
            Received::Complete(Request { form, is_head: request.method == Some("HEAD") })
        }
    }
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
