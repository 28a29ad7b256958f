//! The one record that an attempt leaves in the log.

use std::path::Path;

use tracing::{error, info, warn};

use crate::reload::attempt::{Attempt, Verdict, join};
use crate::telemetry::units::milliseconds;

impl Attempt {
    /// Logs the attempt, with its first changes; then each warning and each key that waits for a restart.
    pub fn log(&self, config: &Path) {
        let short = self.shortened();
        let trigger = join(&self.triggers, ", ");
        let config = config.display();
        let (generation, duration_ms) = (self.generation, milliseconds(self.duration));
        let digest = self.digest.as_deref();
        let mut changes = join(&short.changes, "; ");
        if short.changes_omitted > 0 {
            changes.push_str(&format!("; and {} more", short.changes_omitted));
        }
        let outcome = self.outcome();
        let id = self.id.as_str();
        match &self.verdict {
            Verdict::Published => info!(
                attempt = id, outcome, trigger, %config, generation, digest, duration_ms, changes,
                "Configuration reloaded successfully"
            ),
            Verdict::DryRunOk => info!(
                attempt = id, outcome, trigger, %config, generation, digest, duration_ms, changes,
                "Configuration checked; nothing was changed"
            ),
            Verdict::Refused(refusal) if self.is_dry_run => info!(
                attempt = id, outcome, trigger, %config, generation, digest, duration_ms,
                "Configuration checked and refused; nothing was changed: {refusal}"
            ),
            Verdict::Refused(refusal) => error!(
                attempt = id, outcome, trigger, %config, generation, digest, duration_ms,
                "Configuration reload failed: {refusal}; generation {generation} stays in service"
            ),
        }
        if matches!(self.verdict, Verdict::Published) {
            for warning in &self.warnings {
                warn!(attempt = id, "{warning}");
            }
            for pending in &self.pending_restart {
                warn!(attempt = id, key = pending.key, "the key takes effect after a restart");
            }
        }
    }
}
