//! A secret: prints as `[redacted]`, is wiped when dropped.
//!
//! What can be compared without being shown is its fingerprint, a hash keyed afresh in every
//! process, so that a change report can say *that* a secret changed.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What stands for a secret wherever one would be printed.
pub(crate) const REDACTED: &str = "[redacted]";

/// The YAML tag under which a secret is serialized; see [`Secret::serialize`].
pub(crate) const TAG: &str = "secret";

#[derive(Clone, PartialEq, Eq, Hash, Zeroize, ZeroizeOnDrop, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Never log it, never format it into an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Equal for equal secrets within this process and useless outside of it.
    fn fingerprint(&self) -> u64 {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        KEY.hash_one(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    /// `!secret <fingerprint>`: enough for comparing two configurations, nothing to read.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_variant("Secret", 0, TAG, &self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert!(!serde_yaml::to_string(&secret).expect("plain data").contains("hunter2"));
        assert!(!serde_json::to_string(&secret).expect("plain data").contains("hunter2"));
    }

    #[test]
    fn equal_secrets_have_equal_fingerprints() {
        assert_eq!(Secret::new("a").fingerprint(), Secret::new("a").fingerprint());
        assert_ne!(Secret::new("a").fingerprint(), Secret::new("b").fingerprint());
    }
}
