//! From a tree of YAML to all typed sections, each read on its own.

use serde_yaml::Value;

use crate::config::file;
use crate::config::reuse::{Section, Written};
use crate::settings::decode;
use crate::settings::problem::{Place, Problems};
use crate::settings::reference::References;

/// Reads every section and every bucket that is not in service already.
pub(super) fn read(
    tree: Value,
    buckets: Vec<Section<Value>>,
    references: &References<'_>,
    problems: &mut Problems,
) -> (file::File, Vec<Section<file::Bucket>>) {
    let root = Place::root();
    let sections: file::Sections = decode::section(tree, &root, references, problems);
    let list = root.key("buckets");
    if sections.buckets.is_none() && !problems.any_at(&list) && !problems.is_at(&root) {
        problems.push(list.clone(), "is missing; list the buckets, or write `buckets: []` for none");
    }
    let file = file::File {
        server: decode::section(sections.server, &root.key("server"), references, problems),
        admin: decode::section(sections.admin, &root.key("admin"), references, problems),
        reload: decode::section(sections.reload, &root.key("reload"), references, problems),
        log: decode::section(sections.log, &root.key("log"), references, problems),
        limits: decode::section(sections.limits, &root.key("limits"), references, problems),
        jwt: sections.jwt.map(|jwt| decode::section(jwt, &root.key("jwt"), references, problems)),
    };
    let mut typed = |(index, bucket)| match bucket {
        Section::InService(bucket) => Section::InService(bucket),
        Section::Written(tree) => {
            let Written { section, origin } = *tree;
            let section = decode::section(section, &list.index(index), references, problems);
            Section::Written(Box::new(Written { section, origin }))
        }
    };
    let buckets = buckets.into_iter().enumerate().map(&mut typed).collect();
    (file, buckets)
}
