//! Keys: what a signature is verified with.
//!
//! One algorithm per key, chosen by whoever gave us the key; the token's own `alg` is compared with it
//! and never obeyed (RFC 8725, section 3.1). A key is checked for its fitness when it is made.

use std::fmt;

use aws_lc_rs::signature::{
    self as aws_lc, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey, Header};
use thiserror::Error;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use crate::secret::Secret;
use crate::tokens::claims::Claims;

/// The shortest secret for HS256 and its like, in characters.
pub(crate) const MIN_SECRET_CHARACTERS: usize = 32;

/// A signature algorithm (RFC 7518, section 3.1; RFC 8037, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm(jsonwebtoken::Algorithm);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "is not an algorithm; use HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA"
)]
pub struct UnknownAlgorithm;

/// Every algorithm, as it is written.
const ALGORITHMS: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384",
    "EdDSA",
];

impl Algorithm {
    pub fn parse(text: &str) -> Result<Self, UnknownAlgorithm> {
        let known = ALGORITHMS.contains(&text).then(|| text.parse().ok()).flatten();
        known.map(Self).ok_or(UnknownAlgorithm)
    }

    /// Whether the key is a shared secret and not a public key.
    pub fn is_symmetric(self) -> bool {
        use jsonwebtoken::Algorithm::{HS256, HS384, HS512};
        matches!(self.0, HS256 | HS384 | HS512)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidKey {
    #[error("JWT secret must be at least 32 characters")]
    ShortSecret,
    #[error("is not a public key in PEM, which begins with `-----BEGIN PUBLIC KEY-----`")]
    NotAPublicKey,
    #[error("is not an RSA public key of 2048 to 8192 bits")]
    NotRsa,
    #[error("is not a public key on the curve P-256")]
    NotP256,
    #[error("is not a public key on the curve P-384")]
    NotP384,
    #[error("is not an Ed25519 public key")]
    NotEd25519,
}

/// What a token is checked with.
#[derive(Clone)]
pub struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Key {
    /// A shared secret, for one of the HS algorithms.
    pub fn from_secret(algorithm: Algorithm, secret: &Secret) -> Result<Self, InvalidKey> {
        if secret.expose().chars().count() < MIN_SECRET_CHARACTERS {
            return Err(InvalidKey::ShortSecret);
        }
        Ok(Self::new(algorithm, DecodingKey::from_secret(secret.expose().as_bytes())))
    }

    /// A public key in PEM (RFC 7468), for one of the other algorithms.
    pub fn from_pem(algorithm: Algorithm, pem: &str) -> Result<Self, InvalidKey> {
        // `jsonwebtoken` would take a private key or a certificate for what it finds inside.
        let label = pem.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----"));
        if !matches!(label, Some(("PUBLIC KEY" | "RSA PUBLIC KEY", _))) {
            return Err(InvalidKey::NotAPublicKey);
        }
        let (fits, misfit) = fitness(algorithm);
        let parse: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey> = match misfit {
            InvalidKey::NotRsa => DecodingKey::from_rsa_pem,
            InvalidKey::NotEd25519 => DecodingKey::from_ed_pem,
            _ => DecodingKey::from_ec_pem,
        };
        let decoding = parse(pem.as_bytes()).map_err(|_| misfit)?;
        let der = decoding.try_get_as_bytes().map_err(|_| misfit)?;
        ParsedPublicKey::new(fits.ok_or(misfit)?, der).map_err(|_| misfit)?;
        if misfit == InvalidKey::NotRsa && !RSA_BITS.contains(&rsa_bits(der).ok_or(misfit)?) {
            return Err(misfit);
        }
        Ok(Self::new(algorithm, decoding))
    }

    /// An RSA key by its modulus and its exponent, in base64url (RFC 7518, section 6.3.1).
    pub fn from_modulus(algorithm: Algorithm, n: &str, e: &str) -> Result<Self, InvalidKey> {
        let integer = |text: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidKey::NotRsa)?;
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            Ok(bytes.into_iter().skip(zeros).collect::<Vec<u8>>())
        };
        let (n, e) = (integer(n)?, integer(e)?);
        let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        // An exponent of 1 would make every text its own signature.
        let is_odd = |integer: &[u8]| integer.last().is_some_and(|last| last % 2 == 1);
        let is_exponent = is_odd(&e) && e != [1] && e.len() <= MAX_EXPONENT_BYTES;
        if fitness(algorithm).1 != InvalidKey::NotRsa
            || !RSA_BITS.contains(&bits)
            || !is_odd(&n)
            || !is_exponent
        {
            return Err(InvalidKey::NotRsa);
        }
        Ok(Self::new(algorithm, DecodingKey::from_rsa_raw_components(&n, &e)))
    }

    /// A point of the algorithm's curve, in base64url (RFC 7518, section 6.2.1).
    pub fn from_point(algorithm: Algorithm, x: &str, y: &str) -> Result<Self, InvalidKey> {
        Self::fitting(algorithm, DecodingKey::from_ec_components(x, y).ok())
    }

    /// An Ed25519 key, in base64url (RFC 8037, section 2).
    pub fn from_ed25519(algorithm: Algorithm, x: &str) -> Result<Self, InvalidKey> {
        Self::fitting(algorithm, DecodingKey::from_ed_components(x).ok())
    }

    fn fitting(algorithm: Algorithm, decoding: Option<DecodingKey>) -> Result<Self, InvalidKey> {
        let (fits, misfit) = fitness(algorithm);
        let decoding = decoding.ok_or(misfit)?;
        let bytes = decoding.try_get_as_bytes().map_err(|_| misfit)?;
        ParsedPublicKey::new(fits.ok_or(misfit)?, bytes).map_err(|_| misfit)?;
        Ok(Self::new(algorithm, decoding))
    }

    fn new(algorithm: Algorithm, decoding: DecodingKey) -> Self {
        Self { id: None, algorithm, decoding }
    }

    pub fn with_id(self, id: String) -> Self {
        Self { id: Some(id), ..self }
    }

    /// What a token's `kid` is compared with; a key without an id may be meant by any token.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn is_symmetric(&self) -> bool {
        self.algorithm.is_symmetric()
    }

    /// Whether a signature, in base64url, is this key's over a text. Secrets are compared in constant
    /// time.
    pub fn verifies(&self, text: &str, signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, text.as_bytes(), &self.decoding, self.algorithm.0)
            .unwrap_or(false)
    }
}

/// What aws-lc checks a public key with, and what a key that does not pass is not.
fn fitness(algorithm: Algorithm) -> (Option<&'static dyn VerificationAlgorithm>, InvalidKey) {
    use jsonwebtoken::Algorithm as A;
    let (fits, misfit): (&'static dyn VerificationAlgorithm, _) = match algorithm.0 {
        A::RS256 => (rsa_fits(&aws_lc::RSA_PKCS1_2048_8192_SHA256), InvalidKey::NotRsa),
        A::RS384 => (rsa_fits(&aws_lc::RSA_PKCS1_2048_8192_SHA384), InvalidKey::NotRsa),
        A::RS512 => (rsa_fits(&aws_lc::RSA_PKCS1_2048_8192_SHA512), InvalidKey::NotRsa),
        A::PS256 => (rsa_fits(&aws_lc::RSA_PSS_2048_8192_SHA256), InvalidKey::NotRsa),
        A::PS384 => (rsa_fits(&aws_lc::RSA_PSS_2048_8192_SHA384), InvalidKey::NotRsa),
        A::PS512 => (rsa_fits(&aws_lc::RSA_PSS_2048_8192_SHA512), InvalidKey::NotRsa),
        A::ES256 => (ec_fits(&aws_lc::ECDSA_P256_SHA256_FIXED), InvalidKey::NotP256),
        A::ES384 => (ec_fits(&aws_lc::ECDSA_P384_SHA384_FIXED), InvalidKey::NotP384),
        A::EdDSA => (&aws_lc::ED25519, InvalidKey::NotEd25519),
        // The HS algorithms; `parse` admits no others.
        _ => return (None, InvalidKey::NotAPublicKey),
    };
    (Some(fits), misfit)
}

/// What aws-lc takes.
const MAX_EXPONENT_BYTES: usize = 4;

/// What aws-lc verifies with. It parses smaller keys too, and then refuses every signature.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The size of the modulus of an `RSAPublicKey` (RFC 8017, appendix A.1.1).
fn rsa_bits(der: &[u8]) -> Option<usize> {
    let (_, key) = RSAPublicKey::from_der(der).ok()?;
    Some(key.key_size())
}

fn rsa_fits(parameters: &'static RsaParameters) -> &'static dyn VerificationAlgorithm {
    parameters
}

fn ec_fits(algorithm: &'static EcdsaVerificationAlgorithm) -> &'static dyn VerificationAlgorithm {
    algorithm
}

/// Makes a token, for trying things out and for the `reload` command. HS algorithms only.
pub fn mint(algorithm: Algorithm, secret: &Secret, id: Option<&str>, claims: &Claims) -> Option<String> {
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm.0) };
    jsonwebtoken::encode(&header, claims, &key).ok()
}
