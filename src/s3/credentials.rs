//! Credentials for a store: an access key, its secret key, and the session token of temporary ones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::secret::Secret;

/// The time before the expiry of credentials in which they sign nothing. A request needs time to reach the
/// store, and the store's clock may be ahead. It would answer 403, and the client did nothing wrong.
pub(crate) const LAST_SECONDS: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub access_key: Secret,
    pub secret_key: Secret,
    /// Temporary credentials have one. It is sent as `x-amz-security-token`.
    pub session_token: Option<Secret>,
    /// `None` if they do not expire.
    pub expires: Option<SystemTime>,
}

impl Credentials {
    /// Whether a request can be signed with them: their texts become a part of headers.
    pub(crate) fn are_printable(&self) -> bool {
        let mut texts = [Some(&self.access_key), Some(&self.secret_key), self.session_token.as_ref()]
            .into_iter()
            .flatten();
        texts.all(is_printable)
    }

    /// Whether the store still accepts them when a request that is signed now reaches it.
    pub(crate) fn are_valid(&self, now: SystemTime) -> bool {
        self.usable_until().is_none_or(|end| now < end)
    }

    /// The moment from which on they sign nothing; `None` if they do not expire.
    pub(crate) fn usable_until(&self) -> Option<SystemTime> {
        self.expires.map(|expires| expires.checked_sub(LAST_SECONDS).unwrap_or(UNIX_EPOCH))
    }
}

/// Whether a text can stand in a header as it is.
pub(crate) fn is_printable(secret: &Secret) -> bool {
    !secret.is_empty() && secret.expose().bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_a_header_cannot_hold_is_no_credential() {
        for (text, is_good) in [("AKID", true), ("", false), ("a b", false), ("a\n", false), ("ä", false)] {
            assert_eq!(is_printable(&Secret::new(text)), is_good, "{text:?}");
        }
    }
}
