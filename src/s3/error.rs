//! The XML error document (Amazon S3 API Reference, "REST error responses"), and what a store's own
//! says of whom we sign as.

/// An error document. `code` and `message` are our own words and `request_id` is of a safe
/// alphabet, so none of them needs escaping.
pub(crate) fn document(code: &str, message: &str, request_id: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
    )
}

/// The `Code` of a store's error document, for the log: a name of letters, or nothing.
pub(crate) fn code_in(document: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(document).ok()?;
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let is_name = (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_name.then_some(code)
}

/// Why a store did not accept whom a request was signed as, or what that one may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The secret key is another one, or something on the way changed the request.
    BadSignature,
    /// The store does not know the access key.
    UnknownKey,
    /// Temporary credentials are over, or were made for elsewhere.
    BadToken,
    /// Our clock and the store's differ too much.
    ClockSkew,
    /// A policy, a missing object in a bucket that may not be listed, or no word about it.
    Denied,
}

impl Cause {
    /// By the status and the code of a store's answer; what is no refusal is `None`. The answer to a HEAD
    /// has no document, and so no code.
    pub(crate) fn of(status: u16, code: Option<&str>) -> Option<Self> {
        match code {
            Some("SignatureDoesNotMatch") => Some(Self::BadSignature),
            Some("InvalidAccessKeyId") => Some(Self::UnknownKey),
            Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => Some(Self::BadToken),
            Some("RequestTimeTooSkewed") => Some(Self::ClockSkew),
            _ => (status == 403).then_some(Self::Denied),
        }
    }

    /// The metric label. None is the end of another one.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::UnknownKey => "unknown_key",
            Self::BadToken => "bad_token",
            Self::ClockSkew => "clock_skew",
            Self::Denied => "denied",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_document_is_found() {
        let document = document("NoSuchKey", "no object has this key", "abc");
        assert_eq!(code_in(document.as_bytes()), Some("NoSuchKey"));
        assert_eq!(code_in(b"<Error><Code>a b\n</Code>"), None);
        assert_eq!(code_in(b"<Error><Code></Code>"), None);
        assert_eq!(code_in(b"\xff"), None);
        assert_eq!(code_in(b""), None);
    }

    #[test]
    fn a_refusal_is_known_by_its_code_and_else_by_its_status() {
        for (status, code, refusal) in [
            (403, Some("SignatureDoesNotMatch"), Some(Cause::BadSignature)),
            (403, Some("InvalidAccessKeyId"), Some(Cause::UnknownKey)),
            (400, Some("ExpiredToken"), Some(Cause::BadToken)),
            (403, Some("RequestTimeTooSkewed"), Some(Cause::ClockSkew)),
            (403, Some("AccessDenied"), Some(Cause::Denied)),
            (403, None, Some(Cause::Denied)),
            (404, Some("NoSuchKey"), None),
            (400, None, None),
        ] {
            assert_eq!(Cause::of(status, code), refusal, "{status} {code:?}");
        }
    }

    #[test]
    fn no_cause_is_the_end_of_another() {
        use Cause as R;
        let causes = [R::BadSignature, R::UnknownKey, R::BadToken, R::ClockSkew, R::Denied].map(R::label);
        for one in causes {
            assert!(causes.iter().all(|other| *other == one || !other.ends_with(one)), "{one}");
        }
    }
}
