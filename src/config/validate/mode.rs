//! The `mode` of what may be observed before it is enforced.

use crate::access::policy::Policy;
use crate::access::rules::Mode;
use crate::config::file;
use crate::config::validate::Validator;
use crate::settings::problem::Place;

impl Validator<'_, '_> {
    pub(super) fn auth_mode(&mut self, auth: &file::Auth, place: &Place) -> Mode {
        let place = place.key("mode");
        let mode = self.mode(&auth.mode, &place);
        if mode == Mode::Observe && !auth.enabled {
            let why =
                "means nothing beside `enabled: false`, which makes the bucket public; leave one of them out";
            self.problems.push(place, why);
        }
        mode
    }

    pub(super) fn rule_mode(&mut self, rule: &file::PathRule, place: &Place) -> Mode {
        let mode = self.mode(&rule.mode, place);
        if mode == Mode::Observe && rule.allow.is_some() {
            let why = "means nothing beside `allow: public`, which refuses nobody; leave one of them out";
            self.problems.push(place.clone(), why);
        }
        mode
    }

    pub(super) fn networks_mode(&mut self, bucket: &file::Bucket, place: &Place) -> Mode {
        let Some(mode) = &bucket.networks_mode else { return Mode::Enforce };
        if bucket.allow_networks.is_none() && bucket.deny_networks.is_none() {
            let why =
                "means nothing without `allow_networks` or `deny_networks`; add one of them, or leave it out";
            self.problems.push(place.clone(), why);
        }
        self.mode(mode, place)
    }

    fn mode(&mut self, mode: &str, place: &Place) -> Mode {
        match mode {
            "enforce" => Mode::Enforce,
            "observe" => Mode::Observe,
            // A value of another type has its problem already.
            _ if self.problems.any_at(place) => Mode::Enforce,
            other => {
                self.refuse(place, other, "is not a mode; use enforce or observe");
                Mode::Enforce
            }
        }
    }

    /// Says which parts of a bucket refuse nobody.
    pub(super) fn warn_of_observed(&mut self, policy: &Policy, place: &Place, name: Option<&str>) {
        let mut parts = Vec::new();
        if policy.networks_mode == Mode::Observe {
            parts.push("its networks".to_owned());
        }
        let rules = policy.readers.observed();
        match (policy.mode, rules.as_slice()) {
            (Mode::Observe, _) => parts.push("its `auth`".to_owned()),
            (Mode::Enforce, []) => {}
            (Mode::Enforce, [only]) => parts.push(format!("`auth.rules[{only}]`")),
            (Mode::Enforce, [first, more @ ..]) => {
                let rules = if more.len() == 1 { "rule" } else { "rules" };
                parts.push(format!("`auth.rules[{first}]` and {} more {rules}", more.len()));
            }
        }
        if parts.is_empty() {
            return;
        }
        self.warn(format!(
            "{place}: bucket `{}` lets through what {} would refuse, because that is only observed; set the mode to `enforce` to refuse it",
            name.unwrap_or_default(),
            parts.join(" and "),
        ));
    }
}
