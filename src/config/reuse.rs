//! What is in service already, and which buckets of a new file it is.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use serde_yaml::Value;

use crate::config::{Bucket, Config};
use crate::s3::identity::{self, Identity};
use crate::settings::document::{self, Document, Item, KEY};
use crate::settings::problem::{Place, Problems};
use crate::settings::reference::{Position, References, within};
use crate::settings::tree;
use crate::tokens::jwks::Jwks;
use crate::tokens::verifier::Verifier;

/// What a bucket was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// A hash of its section as written.
    section: u64,
    /// The texts in it that hold references, and a hash of what they became.
    references: Vec<String>,
    became: u64,
    /// A hash of the `jwt` block, whose keys are a part of its rule.
    jwt: u64,
}

/// What is in service already. It is taken over as it is, so that what hangs on it, like a signing key or
/// the keys of an issuer, lives on, and a reload costs what it changes.
pub(super) struct Known {
    /// By the hashes of their sections.
    buckets: HashMap<u64, Arc<Bucket>>,
    pub verifier: Option<(u64, Arc<Verifier>)>,
    pub jwks: Vec<Arc<Jwks>>,
    /// Also those of buckets that changed otherwise: what was fetched stays.
    pub identities: HashMap<identity::Source, Arc<Identity>>,
}

impl Known {
    pub(super) fn new(predecessor: Option<&Config>) -> Self {
        let buckets = predecessor.into_iter().flat_map(|config| &config.buckets);
        let identities = buckets.clone().filter_map(|bucket| {
            let identity = &bucket.identity;
            Some((identity.source()?.clone(), identity.clone()))
        });
        // With room from the beginning, as every list here that is as long as the file's.
        let mut by_section = HashMap::with_capacity(predecessor.map_or(0, |config| config.buckets.len()));
        by_section
            .extend(buckets.filter_map(|bucket| Some((bucket.origin.as_ref()?.section, bucket.clone()))));
        Self {
            identities: identities.collect(),
            buckets: by_section,
            verifier: predecessor.and_then(|config| config.verifier.clone()),
            jwks: predecessor.map(|config| config.jwks.clone()).unwrap_or_default(),
        }
    }

    /// Whether there may be a bucket for a section.
    pub(super) fn knows(&self, section: u64) -> bool {
        self.buckets.contains_key(&section)
    }

    /// The bucket that a section would become.
    fn bucket(&self, section: u64, jwt: u64, references: &mut References<'_>) -> Option<&Arc<Bucket>> {
        let bucket = self.buckets.get(&section)?;
        let origin = bucket.origin.as_ref()?;
        let is_same = origin.jwt == jwt && origin.became == hash_of(&origin.references, references)?;
        is_same.then_some(bucket)
    }
}

/// A hash of what texts become when references are filled in; `None` where one of them cannot be.
fn hash_of(texts: &[String], references: &mut References<'_>) -> Option<u64> {
    let mut hasher = KEY.build_hasher();
    for text in texts {
        // Hold a single text at a time, and no more of it than a file of that length may bring.
        let mut left = tree::text_limit(text.len());
        references.resolve(text, true, &mut left).ok()?.hash(&mut hasher);
    }
    Some(hasher.finish())
}

/// An item of the list of buckets: first as a tree, then as typed.
pub(super) enum Section<T> {
    InService(Arc<Bucket>),
    /// Boxed: most items of a long list are in service, and should not take the room of what is not.
    Written(Box<Written<T>>),
}

pub(super) struct Written<T> {
    pub section: T,
    pub origin: Option<Origin>,
}

/// A file with its references filled in.
pub(super) struct Filled {
    pub tree: Value,
    /// A hash of the `jwt` block.
    pub jwt: u64,
    pub buckets: Vec<Section<Value>>,
}

/// Fills in references and finds out which buckets are in service already.
pub(super) fn fill(
    document: Document<'_>,
    known: &Known,
    references: &mut References<'_>,
    problems: &mut Problems,
) -> Filled {
    let Document { mut tree, items } = document;
    let deadline = references.deadline().clone();
    references.fill(&mut tree, &Position::Root, problems);
    let jwt = Place::root().key("jwt");
    let jwt = KEY.hash_one((tree.get("jwt"), within(&references.written, &jwt).collect::<Vec<_>>()));
    let list = Position::Key(&Position::Root, "buckets");
    let mut section = |(index, item)| {
        let (Item::Known { hash, .. } | Item::Read { hash, .. }) = item;
        if let Some(bucket) = known.bucket(hash, jwt, references) {
            return Section::InService(bucket.clone());
        }
        let mut section = match item {
            // It was an item before.
            Item::Known { text, .. } => document::item(text).unwrap_or_default(),
            Item::Read { value, .. } => value,
        };
        let position = Position::Index(&list, index);
        references.fill(&mut section, &position, problems);
        let texts: Vec<String> =
            within(&references.written, &position.place()).map(|(_, text)| text.clone()).collect();
        let became = hash_of(&texts, references);
        let origin = became.map(|became| Origin { section: hash, references: texts, became, jwt });
        Section::Written(Box::new(Written { section, origin }))
    };
    let mut buckets = Vec::with_capacity(items.len());
    for item in items.into_iter().enumerate() {
        if deadline.has_passed() {
            break;
        }
        buckets.push(section(item));
    }
    Filled { tree, jwt, buckets }
}
