//! The `log` section.

use tracing::Level;

use crate::config::file;
use crate::config::validate::Validator;
use crate::settings::problem::Place;
use crate::telemetry::log::{Format, Settings};

impl Validator<'_, '_> {
    /// The settings; a value that is not valid is a problem, and its default stands in.
    pub(super) fn log(&mut self, log: &file::Log, place: &Place) -> Settings {
        let default = Settings::default();
        let level = match log.level.as_str() {
            "error" => Level::ERROR,
            "warn" => Level::WARN,
            "info" => Level::INFO,
            "debug" => Level::DEBUG,
            other => {
                self.refuse(&place.key("level"), other, "is not a level; use error, warn, info or debug");
                default.level
            }
        };
        let format = match log.format.as_str() {
            "auto" => Format::Auto,
            "json" => Format::Json,
            "text" => Format::Text,
            other => {
                self.refuse(&place.key("format"), other, "is not a format; use auto, json or text");
                default.format
            }
        };
        Settings { level, format }
    }
}
