//! Failpoints: stages of a reload that panic or hang on demand. Compiled out unless the feature `faults`
//! is on.
//!
//! The file that `YATAGARASU_FAULT_FILE` names holds `panic STAGE` or `hang STAGE`. It is read at every
//! failpoint, so a test can end a hang by emptying it.

/// Panics or hangs here if the fault file asks for it.
#[inline]
pub(crate) fn point(stage: &str) {
    #[cfg(feature = "faults")]
    active::point(stage);
    #[cfg(not(feature = "faults"))]
    let _ = stage;
}

#[cfg(feature = "faults")]
mod active {
    use std::ffi::OsString;
    use std::sync::LazyLock;
    use std::thread::sleep;
    use std::time::Duration;

    static FILE: LazyLock<Option<OsString>> = LazyLock::new(|| std::env::var_os("YATAGARASU_FAULT_FILE"));

    #[expect(clippy::panic, reason = "a failpoint panics on purpose")]
    pub(super) fn point(stage: &str) {
        if is_wanted("panic", stage) {
            panic!("a panic on demand in the stage {stage}");
        }
        while is_wanted("hang", stage) {
            sleep(Duration::from_millis(20));
        }
    }

    fn is_wanted(effect: &str, stage: &str) -> bool {
        let text = FILE.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        text.is_some_and(|text| text.trim().split_once(' ') == Some((effect, stage)))
    }
}
