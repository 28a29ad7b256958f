//! `s3.credentials` and the keys beside it: whom requests to a store are signed as. Nothing is fetched
//! here, so that a file can be judged without the network.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::file;
use crate::config::validate::Validator;
use crate::s3::credentials::{self, Credentials};
use crate::s3::identity::{Identity, Source};
use crate::secret::Secret;
use crate::settings::problem::Place;

pub(super) struct Identities {
    /// One for the same settings, in all buckets and all generations.
    pub by_source: HashMap<Source, Arc<Identity>>,
    /// One for the same keys in all buckets that are read together, which share what is derived from them.
    pub by_keys: HashMap<Credentials, Arc<Identity>>,
}

impl Identities {
    fn of_source(&mut self, source: Source) -> Arc<Identity> {
        let identity = self.by_source.entry(source.clone());
        identity.or_insert_with(|| Arc::new(Identity::from_source(source))).clone()
    }

    fn of_keys(&mut self, keys: Credentials) -> Arc<Identity> {
        let identity = self.by_keys.entry(keys.clone());
        identity.or_insert_with(|| Arc::new(Identity::constant(keys))).clone()
    }
}

const SOURCES: &str =
    "static, environment, profile, web_identity, container, instance, assume_role or default";

/// Amazon's limits for the lengths (AWS STS API Reference, "AssumeRole").
const ROLE_ARN: usize = 2048;
const SESSION_NAME: std::ops::RangeInclusive<usize> = 2..=64;
const EXTERNAL_ID: std::ops::RangeInclusive<usize> = 2..=1224;

impl Validator<'_, '_> {
    pub(super) fn identity(
        &mut self,
        s3: &mut file::S3,
        place: &Place,
        region: Option<&str>,
        identities: &mut Identities,
    ) -> Option<Arc<Identity>> {
        let options_place = place.key("credentials");
        if self.problems.any_at(&options_place) {
            return None;
        }
        let written = s3.credentials.take();
        let source = match &written {
            Some(file::Credentials { source: Some(source), .. }) => source.as_str(),
            Some(_) => {
                self.missing(options_place.key("source"), &format!("use {SOURCES}"));
                return None;
            }
            None if s3.access_key.is_some() || s3.secret_key.is_some() => "static",
            None => "default",
        };
        let none = file::Credentials::default();
        let options = written.as_ref().unwrap_or(&none);
        self.refuse_unused(source, s3, options, place);
        let identity = match source {
            "static" => self.static_keys(s3, place).map(|keys| identities.of_keys(keys)),
            "environment" | "default" => match (self.keys_of_the_environment(s3, place), source) {
                (Some(keys), _) => Some(identities.of_keys(keys)),
                (None, "environment") => {
                    let message = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set in the environment, or hold what a key cannot have";
                    self.problems.push(options_place.key("source"), message);
                    None
                }
                (None, _) => {
                    if written.is_none() {
                        self.warn(format!(
                            "{place}: there are no keys here or in the environment, so they will be looked for where AWS's own programs look; write `credentials: {{ source: default }}` if that is meant"
                        ));
                    }
                    region.map(|region| identities.of_source(Source::Default { region: region.to_owned() }))
                }
            },
            _ => self.source(source, s3, options, place, region).map(|source| identities.of_source(source)),
        };
        s3.credentials = written;
        identity
    }

    /// The keys of the environment, which are shown as if the file referred to them.
    fn keys_of_the_environment(&mut self, s3: &mut file::S3, place: &Place) -> Option<Credentials> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Secret::new);
        let keys = Credentials {
            access_key: variable("AWS_ACCESS_KEY_ID")?,
            secret_key: variable("AWS_SECRET_ACCESS_KEY")?,
            session_token: variable("AWS_SESSION_TOKEN"),
            expires: None,
        };
        if !keys.are_printable() {
            return None;
        }
        s3.access_key = Some(keys.access_key.clone());
        s3.secret_key = Some(keys.secret_key.clone());
        s3.session_token.clone_from(&keys.session_token);
        for (key, reference) in [
            ("access_key", "${AWS_ACCESS_KEY_ID}"),
            ("secret_key", "${AWS_SECRET_ACCESS_KEY}"),
            ("session_token", "${AWS_SESSION_TOKEN}"),
        ] {
            self.references.written.insert(place.key(key), reference.to_owned());
        }
        Some(keys)
    }

    fn source(
        &mut self,
        source: &str,
        s3: &mut file::S3,
        options: &file::Credentials,
        place: &Place,
        region: Option<&str>,
    ) -> Option<Source> {
        let options_place = place.key("credentials");
        let role_arn = self.text(
            options.role_arn.as_ref(),
            &options_place.key("role_arn"),
            |arn| {
                arn.starts_with("arn:") && arn.len() <= ROLE_ARN && arn.bytes().all(|b| b.is_ascii_graphic())
            },
            "is not the ARN of a role; write it as `arn:aws:iam::123456789012:role/name`",
        );
        let session_name = self.text(
            options.session_name.as_ref(),
            &options_place.key("session_name"),
            |name| SESSION_NAME.contains(&name.len()) && is_plain(name, "_+=,.@-"),
            "is not a session name; use 2 to 64 letters, digits and `_+=,.@-`",
        );
        let external_id = self.text(
            options.external_id.as_ref(),
            &options_place.key("external_id"),
            |id| EXTERNAL_ID.contains(&id.len()) && is_plain(id, "_+=,.@:/-"),
            "is not an external id; use 2 to 1224 letters, digits and `_+=,.@:/-`",
        );
        let is_there = |text: &str| !text.is_empty();
        let why = "is empty; leave the key out";
        let profile = self.text(options.profile.as_ref(), &options_place.key("profile"), is_there, why);
        let profile_file =
            self.text(options.profile_file.as_ref(), &options_place.key("profile_file"), is_there, why);
        let token_file =
            self.text(options.token_file.as_ref(), &options_place.key("token_file"), is_there, why);
        let in_the_folder = |path: String| self.references.directory.join(path);
        Some(match source {
            "profile" => Source::Profile {
                region: region?.to_owned(),
                name: profile,
                file: profile_file.map(in_the_folder),
            },
            "web_identity" => Source::WebIdentity {
                region: region?.to_owned(),
                role_arn,
                token_file: token_file.map(in_the_folder),
                session_name,
            },
            "container" => Source::Container,
            "instance" => Source::Instance,
            "assume_role" => {
                if options.role_arn.is_none() {
                    self.missing(options_place.key("role_arn"), "say which role");
                }
                let has_keys = s3.access_key.is_some() || s3.secret_key.is_some();
                let base = if has_keys { Some(self.static_keys(s3, place)?) } else { None };
                Source::AssumeRole {
                    region: region?.to_owned(),
                    role_arn: role_arn?,
                    session_name,
                    external_id,
                    base,
                }
            }
            _ => {
                let why = format!("is not a source of credentials; use {SOURCES}");
                self.refuse(&options_place.key("source"), source, why);
                return None;
            }
        })
    }

    /// What the source does not look at was meant for another one.
    fn refuse_unused(&mut self, source: &str, s3: &file::S3, options: &file::Credentials, place: &Place) {
        const KEYS: [&str; 3] = ["access_key", "secret_key", "session_token"];
        let used: &[&str] = match source {
            "static" => &KEYS,
            "profile" => &["profile", "profile_file"],
            "web_identity" => &["role_arn", "session_name", "token_file"],
            "assume_role" => &["role_arn", "session_name", "external_id", KEYS[0], KEYS[1], KEYS[2]],
            "environment" | "container" | "instance" | "default" => &[],
            // The source itself is the mistake.
            _ => return,
        };
        let options_place = place.key("credentials");
        let is_set = |secret: &Option<Secret>| secret.as_ref().is_some_and(|secret| !secret.is_empty());
        for (key, place, is_set) in [
            (KEYS[0], place, is_set(&s3.access_key)),
            (KEYS[1], place, is_set(&s3.secret_key)),
            (KEYS[2], place, is_set(&s3.session_token)),
            ("profile", &options_place, options.profile.is_some()),
            ("profile_file", &options_place, options.profile_file.is_some()),
            ("role_arn", &options_place, options.role_arn.is_some()),
            ("session_name", &options_place, options.session_name.is_some()),
            ("external_id", &options_place, options.external_id.is_some()),
            ("token_file", &options_place, options.token_file.is_some()),
        ] {
            if is_set && !used.contains(&key) {
                let message = format!("has no meaning for the source `{source}`; leave it out");
                self.problems.push(place.key(key), message);
            }
        }
    }

    fn text(
        &mut self,
        text: Option<&String>,
        place: &Place,
        is_valid: impl Fn(&str) -> bool,
        why: &str,
    ) -> Option<String> {
        let text = text?;
        if !self.problems.any_at(place) && !is_valid(text) {
            self.refuse(place, text, why);
        }
        Some(text.clone())
    }

    /// The keys of the file.
    fn static_keys(&mut self, s3: &mut file::S3, place: &Place) -> Option<Credentials> {
        if self.problems.any_at(&place.key("access_key")) || self.problems.any_at(&place.key("secret_key")) {
            return None;
        }
        for (key, secret, other) in
            [("access_key", &s3.access_key, "secret_key"), ("secret_key", &s3.secret_key, "access_key")]
        {
            if secret.is_none() {
                self.missing(place.key(key), &format!("it belongs to `{other}`"));
            }
        }
        // An empty token is how a file says that there is none.
        s3.session_token = s3.session_token.take().filter(|token| !token.is_empty());
        for (key, secret) in [
            ("access_key", &s3.access_key),
            ("secret_key", &s3.secret_key),
            ("session_token", &s3.session_token),
        ] {
            self.refuse_placeholder(secret.as_ref(), &place.key(key));
            if secret.as_ref().is_some_and(|secret| !credentials::is_printable(secret)) {
                self.problems.push(
                    place.key(key),
                    "is empty or holds a character that a key cannot have, perhaps a space or a line break",
                );
            }
        }
        Some(Credentials {
            access_key: s3.access_key.clone()?,
            secret_key: s3.secret_key.clone()?,
            session_token: s3.session_token.clone(),
            expires: None,
        })
    }
}

fn is_plain(text: &str, more: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}
