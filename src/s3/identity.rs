//! Whom requests to a store are signed as: credentials that stay, or a source of ones that come and go.
//!
//! An identity holds at most one set of credentials at a time, as one value, so that nobody ever sees
//! the access key of one and the secret key of another. It does not know how they are fetched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use crate::s3::credentials::Credentials;
use crate::s3::sign::Signer;

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
    current: ArcSwapOption<Signer>,
}

impl Identity {
    /// These credentials and no others.
    pub fn constant(credentials: Credentials) -> Self {
        Self { source: None, current: ArcSwapOption::from_pointee(Signer::new(credentials)) }
    }

    /// Nobody, until somebody fetches credentials from there.
    pub fn from_source(source: Source) -> Self {
        Self { source: Some(source), current: ArcSwapOption::empty() }
    }

    /// Where its credentials are fetched; `None` when they stay.
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// The signer of this moment, if credentials are there and do not expire within [`LAST_SECONDS`]. Taken once for a
    /// request.
    pub fn signer(&self, now: SystemTime) -> Option<Arc<Signer>> {
        self.last().filter(|last| last.credentials().are_valid(now))
    }

    /// Of the last credentials that came, also when they have expired.
    pub fn last(&self) -> Option<Arc<Signer>> {
        self.current.load_full()
    }

    /// Replaces the credentials for requests that begin from now on.
    pub fn renew(&self, signer: Arc<Signer>) {
        self.current.store(Some(signer));
    }

    /// Nobody again.
    pub fn wipe(&self) {
        self.current.store(None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::secret::Secret;

    #[test]
    fn credentials_are_there_until_shortly_before_they_expire() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let identity = Identity::from_source(Source::Instance);
        let at_hand = |identity: &Identity, seconds| {
            identity.signer(at(seconds)).map(|signer| signer.credentials().clone())
        };
        assert_eq!(at_hand(&identity, 0), None);
        let credentials = Credentials {
            access_key: Secret::new("AK"),
            secret_key: Secret::new("SK"),
            session_token: None,
            expires: Some(at(10)),
        };
        identity.renew(Arc::new(Signer::new(credentials.clone())));
        assert_eq!(at_hand(&identity, 4), Some(credentials.clone()));
        assert_eq!(at_hand(&identity, 5), None);
        assert!(identity.last().is_some());
        let constant = Identity::constant(Credentials { expires: None, ..credentials });
        assert!(at_hand(&constant, 1 << 40).is_some());
    }
}
