//! Finds where the header of a request ends in what a client sends, and what is wrong in it that Pingora's
//! parser would mend without a word.
//!
//! The parser accepts lines that end in a bare LF, and encodes spaces, control characters and bytes that
//! are not UTF-8 in the target; `http::Uri` drops a fragment. A proxy in front that reads the same bytes in
//! another way would see another path (RFC 9112, sections 2.2 and 3.2). Knows nothing else about headers:
//! what it accepts may still be no HTTP.

use memchr::memchr;

use crate::gateway::Malformed;

/// The header of one request, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct HeaderScan {
    /// The part of the request line that came in earlier reads.
    request_line: Vec<u8>,
    /// Whether the request line is complete.
    is_in_fields: bool,
    /// Length and last byte of the part of a field line that came in earlier reads.
    field: (usize, u8),
    malformed: Option<Malformed>,
}

/// The end of a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    /// How many of the bytes belong to the header.
    pub length: usize,
    pub malformed: Option<Malformed>,
}

impl HeaderScan {
    /// Looks at the next bytes. At the end of the header the scan is ready for the next one.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Option<End> {
        let mut length = 0;
        let mut rest = bytes;
        while let Some((line, after)) = memchr(b'\n', rest).and_then(|at| rest.split_at_checked(at)) {
            let is_last =
                if self.is_in_fields { self.ends_field(line) } else { self.ends_request_line(line) };
            length += line.len() + 1;
            rest = after.get(1..).unwrap_or_default();
            if is_last {
                return Some(End { length, malformed: std::mem::take(self).malformed });
            }
        }
        match rest.last() {
            Some(last) if self.is_in_fields => self.field = (self.field.0 + rest.len(), *last),
            _ => self.request_line.extend_from_slice(rest),
        }
        None
    }

    /// Judges the request line. Never the last line of a header; empty ones before it count for nothing.
    fn ends_request_line(&mut self, line: &[u8]) -> bool {
        let earlier = std::mem::take(&mut self.request_line);
        let whole = if earlier.is_empty() { line } else { &[&earlier, line].concat() };
        let text = whole.strip_suffix(b"\r").unwrap_or_else(|| {
            self.malformed.get_or_insert(Malformed::LineEnd);
            whole
        });
        if !text.is_empty() {
            self.is_in_fields = true;
            if !has_plain_target(text) {
                self.malformed.get_or_insert(Malformed::Target);
            }
        }
        false
    }

    /// Whether a line is the empty one at the end of a header.
    fn ends_field(&mut self, line: &[u8]) -> bool {
        let (earlier, last) = std::mem::take(&mut self.field);
        let length = earlier + line.len();
        let ends_in_cr = length > 0 && *line.last().unwrap_or(&last) == b'\r';
        if !ends_in_cr {
            self.malformed.get_or_insert(Malformed::LineEnd);
        }
        length == usize::from(ends_in_cr)
    }
}

/// Whether a request line is three words of which the middle one says exactly what it says.
fn has_plain_target(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(_), Some(target), Some(_), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let is_plain = |byte: &u8| !byte.is_ascii_control() && *byte != b'#';
    target.iter().all(is_plain) && std::str::from_utf8(target).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: &[u8] = b"GET /next HTTP/1.1\r\n";

    #[test]
    fn a_header_ends_at_its_empty_line_however_it_is_cut() {
        for (header, malformed) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], None),
            (b"GET / HTTP/1.1\r\n\r\n", None),
            (b"\r\n\r\nGET / HTTP/1.1\r\nA: \r\n\r\n", None),
            ("GET /é?q=%20 HTTP/1.1\r\nHost: a b #\r\n\r\n".as_bytes(), None),
            (b"GET /a b HTTP/1.1\r\n\r\n", Some(Malformed::Target)),
            (b"GET  /a HTTP/1.1\r\n\r\n", Some(Malformed::Target)),
            (b"GET /a\x01b HTTP/1.1\r\n\r\n", Some(Malformed::Target)),
            (b"GET /a\tb HTTP/1.1\r\n\r\n", Some(Malformed::Target)),
            (b"GET /a\x7fb HTTP/1.1\r\n\r\n", Some(Malformed::Target)),
            (b"GET /a#b HTTP/1.1\r\n\r\n", Some(Malformed::Target)),
            (b"GET /a\xffb HTTP/1.1\r\n\r\n", Some(Malformed::Target)),
            (b"GET / HTTP/1.1\nHost: a\r\n\r\n", Some(Malformed::LineEnd)),
            (b"GET / HTTP/1.1\r\nHost: a\n\r\n", Some(Malformed::LineEnd)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\n", Some(Malformed::LineEnd)),
            (b"GET / HTTP/1.1\n\n", Some(Malformed::LineEnd)),
            (b"\nGET / HTTP/1.1\r\n\r\n", Some(Malformed::LineEnd)),
        ] {
            let bytes = [header, NEXT].concat();
            for cut in 0..header.len() {
                let mut scan = HeaderScan::default();
                let (first, second) = bytes.split_at(cut);
                assert_eq!(scan.scan(first), None, "{} cut at {cut}", header.escape_ascii());
                let expected = Some(End { length: header.len() - cut, malformed });
                assert_eq!(scan.scan(second), expected, "{} cut at {cut}", header.escape_ascii());
            }
            let mut scan = HeaderScan::default();
            let ends: Vec<_> =
                bytes.iter().filter_map(|byte| scan.scan(std::slice::from_ref(byte))).collect();
            assert_eq!(ends, [End { length: 1, malformed }], "{} byte by byte", header.escape_ascii());
        }
    }
}
