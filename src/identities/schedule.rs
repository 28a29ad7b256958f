//! When credentials are replaced: pure, but for a random factor.

use std::time::{Duration, SystemTime};

/// The longest time before their expiry at which credentials are replaced: an instance has new ones five
/// minutes before, and a source that fails has time to recover.
const EARLY: Duration = Duration::from_secs(15 * 60);

/// The time between two fetches of credentials that name no expiry.
const LOOK: Duration = Duration::from_secs(5 * 60);

/// The pause after a failure; each further failure doubles it, up to the longest one. No pause is shorter.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// The pause before credentials are replaced: it ends [`EARLY`] before they become unusable, or halfway
/// to that moment if that is later.
pub(super) fn until_refresh(usable_until: Option<SystemTime>, now: SystemTime) -> Duration {
    let Some(usable_until) = usable_until else { return LOOK.mul_f64(jitter()) };
    let left = usable_until.duration_since(now).unwrap_or_default();
    let early = EARLY.min(left / 2).mul_f64(jitter());
    left.saturating_sub(early).max(RETRY)
}

/// A random factor, so that many processes that started together do not ask together.
pub(super) fn jitter() -> f64 {
    0.75 + fastrand::f64() / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_replaced_before_they_expire_and_not_all_the_time() {
        let now = SystemTime::now();
        for (left, least, most) in
            [(3600, 2700, 2925), (6 * 3600, 20_700, 20_925), (60, 30, 38), (2, 1, 2), (1, 1, 1), (0, 1, 1)]
        {
            let pause = until_refresh(Some(now + Duration::from_secs(left)), now);
            let range = Duration::from_secs(least)..=Duration::from_secs(most);
            assert!(range.contains(&pause), "{left} s are left, {pause:?}");
        }
        assert!(until_refresh(None, now) <= LOOK);
    }
}
