//! Problems and warnings, told without a secret and within limits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_yaml::Value;

use crate::config::Bucket;
use crate::config::validate::Validator;
use crate::secret::Secret;
use crate::settings::permissions::Permissions;
use crate::settings::placeholder;
use crate::settings::problem::{Place, shown};
use crate::settings::redaction::redacted;
use crate::settings::reference::within;

/// The most warnings that a log or an answer is filled with.
const MAX_WARNINGS: usize = 100;

impl Validator<'_, '_> {
    /// A problem with a value, which is quoted as it was written. What a reference was filled in with may
    /// be a secret, so a value that holds one anywhere within it is not quoted.
    pub(super) fn refuse(&mut self, place: &Place, value: &str, why: impl std::fmt::Display) {
        let message = match within(&self.references.written, place).next() {
            Some((at, reference)) if at == place => format!("the value of `{}` {why}", shown(reference)),
            Some(_) => format!("the value {why}"),
            None => format!("`{}` {why}", shown(value)),
        };
        self.problems.push(place.clone(), message);
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warned += 1;
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(warning);
        }
    }

    pub(super) fn into_warnings(mut self) -> Vec<String> {
        let more = self.warned.saturating_sub(self.warnings.len());
        if more > 0 {
            self.warnings.push(format!("and {more} more warnings"));
        }
        self.warnings
    }

    /// Whether a list is no longer than it may be. What stands beside every key, bucket or rule would
    /// otherwise be multiplied by their number.
    pub(super) fn is_short<T>(&mut self, list: &[T], most: usize, place: &Place) -> bool {
        if list.len() > most {
            self.problems.push(place.clone(), format!("has more than {most} entries; leave some out"));
        }
        list.len() <= most
    }

    /// A secret that is a placeholder.
    pub(super) fn refuse_placeholder(&mut self, secret: Option<&Secret>, place: &Place) {
        if let Some(why) = secret.and_then(|secret| placeholder::complaint(secret.expose())) {
            self.problems.push(place.clone(), why);
        }
    }

    /// Tells who else may read or change what the configuration is made of: the file, what it refers to,
    /// and what credentials are fetched from.
    pub(super) fn permissions(
        &mut self,
        own: Option<(&Path, Permissions)>,
        buckets: &[Arc<Bucket>],
        is_strict: bool,
    ) {
        let mut complaints: Vec<String> = own
            .into_iter()
            .flat_map(|(path, permissions)| permissions.complaints(&path.display().to_string()))
            .collect();
        for (path, permissions) in &self.references.permissions {
            complaints.extend(permissions.complaints(&self.references.shown(path)));
        }
        if !self.references.are_recorded() {
            let sources = buckets.iter().filter_map(|bucket| {
                Some((bucket.identity.source()?.file()?, credentials_file(&bucket.effective)))
            });
            // Many buckets may share a file.
            let files: BTreeMap<_, _> = sources.collect();
            for (path, shown) in files {
                let shown = shown.unwrap_or_else(|| path.display().to_string());
                let permissions = Permissions::of_secret(path);
                complaints.extend(permissions.into_iter().flat_map(|found| found.complaints(&shown)));
            }
        }
        if !is_strict {
            complaints.into_iter().for_each(|complaint| self.warn(complaint));
        } else if !complaints.is_empty() {
            let place = Place::root().key("server").key("strict_permissions");
            self.problems.push(place, complaints.join("; "));
        }
    }
}

/// The file that the credentials of a bucket come from, as it is written, where it was filled in.
fn credentials_file(effective: &Value) -> Option<String> {
    let credentials = effective.get("s3")?.get("credentials")?;
    let file = ["token_file", "profile_file"].iter().find_map(|key| credentials.get(key))?;
    Some(redacted(file).as_str()?.to_owned()).filter(|_| matches!(file, Value::Tagged(_)))
}
