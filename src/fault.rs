//! Failures on demand, for tests of the reload and of its checkers: compiled out unless the feature
//! `faults` is on.
//!
//! The file that `YATAGARASU_FAULT_FILE` names says what is wrong now: `panic STAGE`, `hang STAGE`, or
//! the name of a defect that a checker must find.

#[cfg(feature = "faults")]
fn wanted() -> Option<String> {
    use std::ffi::OsString;
    use std::sync::LazyLock;
    static FILE: LazyLock<Option<OsString>> = LazyLock::new(|| std::env::var_os("YATAGARASU_FAULT_FILE"));
    std::fs::read_to_string(FILE.as_ref()?).ok().map(|text| text.trim().to_owned())
}

/// Whether a defect is switched on.
#[cfg(feature = "faults")]
pub(crate) fn is_active(defect: &str) -> bool {
    wanted().is_some_and(|wanted| wanted == defect)
}

/// Never, in a program that people use.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn is_active(_defect: &str) -> bool {
    false
}

/// Fails here if that is wanted.
#[inline]
#[expect(clippy::panic, reason = "this is what it is for")]
pub(crate) fn point(stage: &str) {
    if cfg!(feature = "faults") {
        if is_active(&format!("panic {stage}")) {
            panic!("a panic on demand in the stage {stage}");
        }
        if is_active(&format!("hang {stage}")) {
            while is_active(&format!("hang {stage}")) {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
}
