//! The header of a store's answer: which statuses mean something to a client, and framing that is ours.

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{HeaderValue, StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};

use crate::gateway::context::Context;

/// Informational answers that a store may send before its final one. Stores send one `100 Continue` or none.
const MAX_INFORMATIONAL: u32 = 16;

/// A final answer, by what the client gets of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The client gets it.
    Passed,
    /// The bucket is elsewhere.
    Redirect,
    /// An error of the store that the client gets in our words.
    Error,
    /// A status that is for us and not for the client, as 401 and 407 are, or that is none at all.
    Meaningless,
}

impl Kind {
    pub(super) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 | 304 => Self::Passed,
            300..=399 => Self::Redirect,
            401 | 407 | 600.. => Self::Meaningless,
            _ => Self::Error,
        }
    }
}

/// Judges an answer that is not the final one. Clients never get it: whatever it says is the store's own
/// text, and a client of HTTP/1.0 would take it for the answer (RFC 9110, section 15.2).
pub(super) fn informational(response: &ResponseHeader, ctx: &mut Context) -> Result<()> {
    ctx.upstream.informational += 1;
    // We never ask for another protocol, and after this status there is no HTTP to read.
    if response.status == StatusCode::SWITCHING_PROTOCOLS || ctx.upstream.informational > MAX_INFORMATIONAL {
        return Err(Error::new_up(ErrorType::InvalidHTTPHeader));
    }
    Ok(())
}

/// Refuses chunks in a version that has none, which means that the framing is faulty (RFC 9112, section 6.1).
pub(super) fn check_framing(response: &ResponseHeader) -> Result<()> {
    if response.version != Version::HTTP_11 && response.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Error::new_up(ErrorType::InvalidHTTPHeader));
    }
    Ok(())
}

/// Leaves one `Content-Length` where a store has sent the same one several times. Pingora has refused
/// different ones.
pub(super) fn keep_one_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(first), second) = (lengths.next(), lengths.next()) else { return };
    let parts = first.as_bytes();
    if second.is_none() && !parts.contains(&b',') {
        return;
    }
    let one = parts.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
    if let Ok(one) = HeaderValue::from_bytes(one) {
        headers.insert(CONTENT_LENGTH, one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_lengths_one_is_left() {
        for lengths in [&["5"][..], &["5", "5"], &["5, 5"], &["5 ,5", "5"]] {
            let mut headers = HeaderMap::new();
            for length in lengths {
                headers.append(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            keep_one_length(&mut headers);
            assert_eq!(headers.get_all(CONTENT_LENGTH).iter().collect::<Vec<_>>(), ["5"], "{lengths:?}");
        }
        let mut none = HeaderMap::new();
        keep_one_length(&mut none);
        assert!(none.is_empty());
    }
}
