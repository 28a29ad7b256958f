//! Keys, and what a token signed with one must say.
//!
//! One algorithm per key, chosen by the configuration; the token's own `alg` is compared with it
//! and never obeyed (RFC 8725, section 3.1). The signature, `iss` and `aud` are `jsonwebtoken`'s
//! business; the dates are compared here, so that the time can be an argument.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{
    self as aws_lc, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, VerificationAlgorithm,
};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use thiserror::Error;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use super::Denied;
use super::claims::Claims;
use crate::secret::Secret;

/// The shortest secret for HS256 and its like, in characters.
pub const MIN_SECRET_CHARACTERS: usize = 32;

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
    algorithm: Algorithm,
    decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Key {
    /// A shared secret, for one of the HS algorithms.
    pub fn from_secret(algorithm: Algorithm, secret: &Secret) -> Result<Self, InvalidKey> {
        if secret.expose().chars().count() < MIN_SECRET_CHARACTERS {
            return Err(InvalidKey::ShortSecret);
        }
        Ok(Self { algorithm, decoding: DecodingKey::from_secret(secret.expose().as_bytes()) })
    }

    /// A public key in PEM (RFC 7468), for one of the other algorithms.
    pub fn from_pem(algorithm: Algorithm, pem: &str) -> Result<Self, InvalidKey> {
        use jsonwebtoken::Algorithm as A;
        // `jsonwebtoken` would take a private key or a certificate for what it finds inside.
        let label = pem.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----"));
        if !matches!(label, Some(("PUBLIC KEY" | "RSA PUBLIC KEY", _))) {
            return Err(InvalidKey::NotAPublicKey);
        }
        let rsa: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey> = DecodingKey::from_rsa_pem;
        let ec: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey> = DecodingKey::from_ec_pem;
        let (parse, fits, misfit): (_, &'static dyn VerificationAlgorithm, _) = match algorithm.0 {
            A::RS256 => (rsa, rsa_fits(&aws_lc::RSA_PKCS1_2048_8192_SHA256), InvalidKey::NotRsa),
            A::RS384 => (rsa, rsa_fits(&aws_lc::RSA_PKCS1_2048_8192_SHA384), InvalidKey::NotRsa),
            A::RS512 => (rsa, rsa_fits(&aws_lc::RSA_PKCS1_2048_8192_SHA512), InvalidKey::NotRsa),
            A::PS256 => (rsa, rsa_fits(&aws_lc::RSA_PSS_2048_8192_SHA256), InvalidKey::NotRsa),
            A::PS384 => (rsa, rsa_fits(&aws_lc::RSA_PSS_2048_8192_SHA384), InvalidKey::NotRsa),
            A::PS512 => (rsa, rsa_fits(&aws_lc::RSA_PSS_2048_8192_SHA512), InvalidKey::NotRsa),
            A::ES256 => (ec, ec_fits(&aws_lc::ECDSA_P256_SHA256_FIXED), InvalidKey::NotP256),
            A::ES384 => (ec, ec_fits(&aws_lc::ECDSA_P384_SHA384_FIXED), InvalidKey::NotP384),
            A::EdDSA => (DecodingKey::from_ed_pem, &aws_lc::ED25519, InvalidKey::NotEd25519),
            // The HS algorithms; `parse` admits no others.
            _ => return Err(InvalidKey::NotAPublicKey),
        };
        let decoding = parse(pem.as_bytes()).map_err(|_| misfit)?;
        let der = decoding.try_get_as_bytes().map_err(|_| misfit)?;
        ParsedPublicKey::new(fits, der).map_err(|_| misfit)?;
        if misfit == InvalidKey::NotRsa && !RSA_BITS.contains(&rsa_bits(der).ok_or(misfit)?) {
            return Err(misfit);
        }
        Ok(Self { algorithm, decoding })
    }
}

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

/// What a token must say beside its signature. `exp` is always required.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// Required and compared when given.
    pub issuer: Option<String>,
    /// At least one of them is required when any is given.
    pub audience: Vec<String>,
    /// How far the clocks of issuer and proxy may differ.
    pub leeway: Duration,
}

/// Tells a valid token from any other.
#[derive(Debug)]
pub struct Verifier {
    key: Key,
    validation: Validation,
    leeway: Duration,
}

impl Verifier {
    pub fn new(key: Key, expectations: &Expectations) -> Self {
        let mut validation = Validation::new(key.algorithm.0);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let mut required = vec!["exp"];
        if let Some(issuer) = &expectations.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if expectations.audience.is_empty() {
            validation.validate_aud = false;
        } else {
            validation.set_audience(&expectations.audience);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Self { key, validation, leeway: expectations.leeway }
    }

    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, Denied> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key.decoding, &self.validation)
            .map_err(|error| denied(error.kind()))?
            .claims;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let leeway = self.leeway.as_secs_f64();
        let expires = numeric_date(&claims, "exp")?.ok_or(Denied::Registered("exp"))?;
        if expires <= now - leeway {
            return Err(Denied::Expired);
        }
        if numeric_date(&claims, "nbf")?.is_some_and(|not_before| not_before > now + leeway) {
            return Err(Denied::NotYetValid);
        }
        Ok(claims)
    }
}

/// A `NumericDate` (RFC 7519, section 2): seconds since 1970 as a JSON number, perhaps fractional.
fn numeric_date(claims: &Claims, name: &'static str) -> Result<Option<f64>, Denied> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Denied::Registered(name)),
    }
}

fn denied(error: &ErrorKind) -> Denied {
    match error {
        ErrorKind::InvalidSignature => Denied::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            Denied::Algorithm
        }
        ErrorKind::InvalidIssuer => Denied::Issuer,
        ErrorKind::InvalidAudience => Denied::Audience,
        ErrorKind::MissingRequiredClaim(claim) => Denied::Registered(match claim.as_str() {
            "iss" => "iss",
            "aud" => "aud",
            _ => "exp",
        }),
        _ => Denied::Malformed,
    }
}

/// Makes a token, for trying things out and for the `reload` command. HS algorithms only.
pub fn mint(algorithm: Algorithm, secret: &Secret, claims: &Claims) -> Option<String> {
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm.0), claims, &key).ok()
}
