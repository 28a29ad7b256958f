//! Whom requests to a store are signed as: credentials that stay, or a source of ones that come and go.
//!
//! An identity holds at most one set of credentials at a time, as one value, so that nobody ever sees
//! the access key of one and the secret key of another. It does not know how they are fetched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;

use super::sigv4::Signatory;
use crate::secret::Secret;

/// The time before the expiry of credentials in which they are not used: the way to the store takes
/// time, and the store has a clock of its own. It would refuse the request, and the client would get its
/// 403 for what is no fault of the client's.
pub(crate) const LAST_SECONDS: Duration = Duration::from_secs(5);

/// What a request is signed with. Temporary credentials come with a session token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub access_key: Secret,
    pub secret_key: Secret,
    pub session_token: Option<Secret>,
    /// `None` when they stay valid until somebody takes them back.
    pub expires: Option<SystemTime>,
}

impl Credentials {
    /// Whether a request can be signed with them: their texts become a part of headers.
    pub fn are_printable(&self) -> bool {
        let mut texts = [Some(&self.access_key), Some(&self.secret_key), self.session_token.as_ref()]
            .into_iter()
            .flatten();
        texts.all(is_printable)
    }

    /// Whether a request that is signed with them now still finds them valid at the store.
    pub fn are_valid(&self, now: SystemTime) -> bool {
        self.usable_until().is_none_or(|end| now < end)
    }

    /// The moment from which on they sign nothing; `None` when they do not expire.
    pub fn usable_until(&self) -> Option<SystemTime> {
        self.expires.map(|expires| expires.checked_sub(LAST_SECONDS).unwrap_or(UNIX_EPOCH))
    }
}

/// Whether a text can stand in a header as it is.
pub(crate) fn is_printable(secret: &Secret) -> bool {
    !secret.is_empty() && secret.expose().bytes().all(|byte| byte.is_ascii_graphic())
}

/// Where credentials are fetched, in Amazon's words (AWS SDKs and Tools Reference Guide, "Standardized
/// credential providers"). What is `None` is the SDK's own default, mostly a variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// Wherever the SDKs look, in their order.
    Default {
        region: String,
    },
    Profile {
        region: String,
        name: Option<String>,
        file: Option<PathBuf>,
    },
    WebIdentity {
        region: String,
        role_arn: Option<String>,
        token_file: Option<PathBuf>,
        session_name: Option<String>,
    },
    Container,
    Instance,
    AssumeRole {
        region: String,
        role_arn: String,
        session_name: Option<String>,
        external_id: Option<String>,
        /// Who asks for the role; the default source when `None`.
        base: Option<Credentials>,
    },
}

impl Source {
    /// The file that it is told to read.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Profile { file, .. } => file.as_deref(),
            Self::WebIdentity { token_file, .. } => token_file.as_deref(),
            Self::Default { .. } | Self::Container | Self::Instance | Self::AssumeRole { .. } => None,
        }
    }

    /// Its name in the configuration, and the metric label. None is the end of another one.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Default { .. } => "default",
            Self::Profile { .. } => "profile",
            Self::WebIdentity { .. } => "web_identity",
            Self::Container => "container",
            Self::Instance => "instance",
            Self::AssumeRole { .. } => "assume_role",
        }
    }
}

#[derive(Debug)]
pub struct Identity {
    source: Option<Source>,
    current: ArcSwapOption<Signatory>,
}

impl Identity {
    /// These credentials and no others.
    pub fn constant(credentials: Credentials) -> Self {
        Self { source: None, current: ArcSwapOption::from_pointee(Signatory::new(credentials)) }
    }

    /// Nobody, until somebody fetches credentials from there.
    pub fn from_source(source: Source) -> Self {
        Self { source: Some(source), current: ArcSwapOption::empty() }
    }

    /// Where its credentials are fetched; `None` when they stay.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// The signatory of this moment, if credentials are there and do not expire within [`LAST_SECONDS`]. Taken once for a
    /// request.
    pub fn signatory(&self, now: SystemTime) -> Option<Arc<Signatory>> {
        self.last().filter(|last| last.credentials.are_valid(now))
    }

    /// Of the last credentials that came, also when they have expired.
    pub fn last(&self) -> Option<Arc<Signatory>> {
        self.current.load_full()
    }

    /// Replaces the credentials for requests that begin from now on.
    pub fn renew(&self, signatory: Arc<Signatory>) {
        self.current.store(Some(signatory));
    }

    /// Nobody again.
    pub fn wipe(&self) {
        self.current.store(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_there_until_shortly_before_they_expire() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let identity = Identity::from_source(Source::Instance);
        let at_hand = |identity: &Identity, seconds| {
            identity.signatory(at(seconds)).map(|signatory| signatory.credentials.clone())
        };
        assert_eq!(at_hand(&identity, 0), None);
        let credentials = Credentials {
            access_key: Secret::new("AK"),
            secret_key: Secret::new("SK"),
            session_token: None,
            expires: Some(at(10)),
        };
        identity.renew(Arc::new(Signatory::new(credentials.clone())));
        assert_eq!(at_hand(&identity, 4), Some(credentials.clone()));
        assert_eq!(at_hand(&identity, 5), None);
        assert!(identity.last().is_some());
        let constant = Identity::constant(Credentials { expires: None, ..credentials });
        assert!(at_hand(&constant, 1 << 40).is_some());
    }

    #[test]
    fn what_a_header_cannot_hold_is_no_credential() {
        for (text, is_good) in [("AKID", true), ("", false), ("a b", false), ("a\n", false), ("ä", false)] {
            assert_eq!(is_printable(&Secret::new(text)), is_good, "{text:?}");
        }
    }
}
