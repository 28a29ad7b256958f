//! The section `limits`.

use serde_yaml::Value;

use crate::config::validate::Validator;
use crate::limits::{Limits, Section};
use crate::settings::problem::Place;

impl Validator<'_, '_> {
    pub(super) fn limits(&mut self, limits: &Section, place: &Place) -> Limits {
        Limits {
            connections: self.connections(&limits.connections, &place.key("connections")),
            header: self.seconds(limits.header_seconds, 1.0, &place.key("header_seconds")),
        }
    }

    fn connections(&mut self, written: &Value, place: &Place) -> Option<usize> {
        if written.as_str() == Some("auto") {
            return None;
        }
        let number = written.as_u64().and_then(|number| usize::try_from(number).ok());
        let valid = number.filter(|number| *number > 0);
        if valid.is_none() {
            let text = match written {
                Value::String(text) => text.clone(),
                other => serde_yaml::to_string(other).unwrap_or_default().trim_end().to_owned(),
            };
            self.refuse(place, &text, "is not a number of connections; use 1 or more, or `auto`");
        }
        valid
    }
}
