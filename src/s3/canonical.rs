//! The canonical request and the string to sign of AWS Signature Version 4.
//!
//! One form for every direction: a request that is signed, a URL that is presigned, a signature that is
//! verified. Both texts are written part by part into a [`Sink`]. The signer's sinks are a hash and a MAC,
//! so that no text is ever put together for a request; a `String` shows what a store would have computed.
//! Specification: "Create a signed AWS API request", AWS Identity and Access Management User Guide.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Receives the parts of a text in order.
pub(crate) trait Sink {
    fn push(&mut self, part: &str);
}

impl Sink for String {
    fn push(&mut self, part: &str) {
        self.push_str(part);
    }
}

impl Sink for Sha256 {
    fn push(&mut self, part: &str) {
        Digest::update(self, part);
    }
}

impl Sink for Hmac<Sha256> {
    fn push(&mut self, part: &str) {
        Mac::update(self, part.as_bytes());
    }
}

/// A request as both ends of a signature see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CanonicalRequest<'a> {
    pub(crate) method: &'a str,
    /// Percent-encoded once, and not normalised, as S3 has it.
    pub(crate) path: &'a str,
    /// Sorted and encoded, without the `?`; empty if there is none.
    pub(crate) query: &'a str,
    /// Lower-case names in order, with their trimmed values.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// The names of these headers, separated by `;`, as they stand in the `Authorization` header.
    pub(crate) signed_headers: &'a str,
    /// SHA-256 of the body in lower-case hexadecimal, or the text that stands for it.
    pub(crate) payload_hash: &'a str,
}

impl CanonicalRequest<'_> {
    pub(crate) fn write_to(&self, sink: &mut impl Sink) {
        for part in [self.method, "\n", self.path, "\n", self.query, "\n"] {
            sink.push(part);
        }
        for (name, value) in self.headers {
            for part in [name, ":", value, "\n"] {
                sink.push(part);
            }
        }
        for part in ["\n", self.signed_headers, "\n", self.payload_hash] {
            sink.push(part);
        }
    }

    pub(crate) fn hash(&self) -> Hex {
        let mut hash = Sha256::new();
        self.write_to(&mut hash);
        Hex::of(&hash.finalize())
    }
}

/// The text whose HMAC with the signing key is the signature.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StringToSign<'a> {
    /// `20130524T000000Z`
    pub(crate) date_time: &'a str,
    /// `20130524/us-east-1/s3/aws4_request`
    pub(crate) scope: &'a str,
    pub(crate) canonical_request: &'a Hex,
}

impl StringToSign<'_> {
    pub(crate) fn write_to(&self, sink: &mut impl Sink) {
        let hash = self.canonical_request.as_str();
        for part in [ALGORITHM, "\n", self.date_time, "\n", self.scope, "\n", hash] {
            sink.push(part);
        }
    }
}

/// 32 bytes in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hex([u8; 64]);

impl Hex {
    /// Takes the 32 bytes of a SHA-256.
    pub(crate) fn of(hash: &[u8]) -> Self {
        let mut text = [0; 64];
        hex::encode_to_slice(hash, &mut text).expect("SHA-256 has 32 bytes");
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal is ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::s3::sign::EMPTY_PAYLOAD_HASH;
    use crate::s3::signing_key::SigningKey;
    use crate::secret::Secret;

    /// "GET Object" of "Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference.
    const EXAMPLE: CanonicalRequest<'static> = CanonicalRequest {
        method: "GET",
        path: "/test.txt",
        query: "",
        headers: &[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY_PAYLOAD_HASH),
            ("x-amz-date", "20130524T000000Z"),
        ],
        signed_headers: "host;range;x-amz-content-sha256;x-amz-date",
        payload_hash: EMPTY_PAYLOAD_HASH,
    };

    #[test]
    fn the_example_of_the_specification_has_its_texts_and_its_signature() {
        let mut text = String::new();
        EXAMPLE.write_to(&mut text);
        assert_eq!(
            text,
            format!(
                "GET\n/test.txt\n\nhost:examplebucket.s3.amazonaws.com\nrange:bytes=0-9\n\
                 x-amz-content-sha256:{EMPTY_PAYLOAD_HASH}\nx-amz-date:20130524T000000Z\n\n\
                 host;range;x-amz-content-sha256;x-amz-date\n{EMPTY_PAYLOAD_HASH}"
            )
        );
        let hash = EXAMPLE.hash();
        assert_eq!(hash.as_str(), "7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972");
        let string_to_sign = StringToSign {
            date_time: "20130524T000000Z",
            scope: "20130524/us-east-1/s3/aws4_request",
            canonical_request: &hash,
        };
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let key = SigningKey::new(&secret, 15_849, "us-east-1");
        assert_eq!(key.scope(), "20130524/us-east-1/s3/aws4_request");
        assert_eq!(
            key.sign(&string_to_sign).as_str(),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }

    proptest! {
        #[test]
        fn the_hash_is_that_of_the_text(
            method in "[A-Z]{1,8}",
            path in "/[ -~]{0,200}",
            query in "[ -~]{0,60}",
            headers in proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,80}"), 0..6),
            payload_hash in "[0-9a-f]{64}|UNSIGNED-PAYLOAD",
        ) {
            let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let request = CanonicalRequest {
                method: &method,
                path: &path,
                query: &query,
                headers: &headers,
                signed_headers: &names.join(";"),
                payload_hash: &payload_hash,
            };
            let mut text = String::new();
            request.write_to(&mut text);
            prop_assert_eq!(request.hash(), Hex::of(&Sha256::digest(text)));
        }
    }
}
