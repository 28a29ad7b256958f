//! The signing key of AWS Signature Version 4: derived from a secret key for one day, region and service.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use aws_sigv4::sign::v4::generate_signing_key;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::s3::canonical::{Hex, StringToSign};
use crate::secret::Secret;

const SERVICE: &str = "s3";

pub(crate) const DAY_SECONDS: u64 = 86_400;

/// A signing key with its credential scope.
pub(crate) struct SigningKey {
    /// Days since 1970-01-01, UTC.
    day: u64,
    region: Box<str>,
    /// `20130524`
    date: String,
    scope: String,
    /// The MAC after it has taken in the key, which is then not needed for each signature.
    mac: Hmac<Sha256>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl SigningKey {
    pub(crate) fn new(secret_key: &Secret, day: u64, region: &str) -> Self {
        let midnight = UNIX_EPOCH + Duration::from_secs(day * DAY_SECONDS);
        let key = generate_signing_key(secret_key.expose(), midnight, region, SERVICE);
        let today = time::OffsetDateTime::from(midnight);
        let date = format!("{:04}{:02}{:02}", today.year(), u8::from(today.month()), today.day());
        let scope = format!("{date}/{region}/{SERVICE}/aws4_request");
        let mac = Hmac::new_from_slice(key.as_ref()).expect("HMAC takes keys of any length");
        Self { day, region: region.into(), date, scope, mac }
    }

    pub(crate) fn day(&self) -> u64 {
        self.day
    }

    pub(crate) fn is_for(&self, day: u64, region: &str) -> bool {
        self.day == day && *self.region == *region
    }

    /// The credential scope: `20130524/us-east-1/s3/aws4_request`.
    pub(crate) fn scope(&self) -> &str {
        &self.scope
    }

    pub(crate) fn sign(&self, string_to_sign: &StringToSign<'_>) -> Hex {
        let mut mac = self.mac.clone();
        string_to_sign.write_to(&mut mac);
        Hex::of(&mac.finalize().into_bytes())
    }

    /// A moment of the key's day in ISO 8601 basic format: `20130524T000000Z`.
    pub(crate) fn date_time(&self, second_of_day: u64) -> String {
        let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        let digit = |number: u64| char::from(b'0' + (number % 10) as u8);
        let mut text = String::with_capacity("20130524T000000Z".len());
        text.push_str(&self.date);
        text.push('T');
        for number in [hour, minute, second] {
            text.extend([digit(number / 10), digit(number)]);
        }
        text.push('Z');
        text
    }
}
